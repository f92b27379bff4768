"""The worker: one resident model, edit jobs from the queue, and generation beside them on its weights."""
