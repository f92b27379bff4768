"""Answers from versions of a model."""
