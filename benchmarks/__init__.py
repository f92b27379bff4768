"""What is measured, each with one command and a JSON result."""
