"""Edit sets, their facts, and how they are taken back."""
