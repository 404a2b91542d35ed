"""The trainer's promises: the same gradients on any number of ranks, checkpoints that are whole, exact resumes."""
