"""From shards to batches: index, order, source, codec, augmentation, loader."""
