"""One module a task: how a model reads, answers and is edited."""
