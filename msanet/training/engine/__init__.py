"""The network in a DeepSpeed engine: optimizer, compilation, BatchNorm, EMA, context parallelism, device settings."""
