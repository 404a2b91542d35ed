"""Training: the same gradients on any number of ranks, complete checkpoints, exact resumes."""
