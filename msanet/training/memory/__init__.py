"""How much memory a step takes, how much there is, and the largest micro-batch that fits."""
