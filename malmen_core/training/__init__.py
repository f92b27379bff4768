"""Meta-training of the hypernetwork."""
