"""Checkpoints that are complete or absent, on any number of ranks and any ZeRO stage."""
