"""A single int64 confusion matrix over the split, from which every metric is computed."""
