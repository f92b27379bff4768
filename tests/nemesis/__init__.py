"""Attacks a whole Errata with faults drawn from a seed, and has the outcome judged by an independent checker."""
