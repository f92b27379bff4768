"""What an edit did, measured on the real model."""
