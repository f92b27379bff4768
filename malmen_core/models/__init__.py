"""What is edited: the base model, its tasks, its tokenizer, and the overlays that are run in its place."""
