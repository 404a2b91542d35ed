"""Sweeps: many trainings by launcher/train.py, each with its own settings, placed and scheduled by Ray Tune.

Ray is imported only inside functions, once all settings are checked. Nothing is imported here, so that `process` starts fast.
"""
