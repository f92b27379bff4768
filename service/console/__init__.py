"""The console: pages for people who look at corrections, make them, and take them back."""
