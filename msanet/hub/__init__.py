"""Trained networks in repositories of the Hugging Face Hub."""
