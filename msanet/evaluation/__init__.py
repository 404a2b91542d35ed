"""One truth: a single int64 confusion matrix over the whole split, from which every figure is computed."""
