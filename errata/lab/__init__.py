"""Evaluation, training and benchmarks of editing on a model of this machine."""
