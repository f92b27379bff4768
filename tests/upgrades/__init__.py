"""Ledgers that releases made, kept so that later ones can be tried on them."""
