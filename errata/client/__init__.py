"""What talks to a running service: an HTTP client, and files of facts."""
