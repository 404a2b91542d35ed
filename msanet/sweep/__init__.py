"""Sweeps: many trainings by launcher/train.py, each with its own settings, placed and steered by Ray Tune.

Ray is imported only inside functions, once all settings are checked. Nothing is imported here, for the sake of `process`.
"""
