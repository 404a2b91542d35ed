"""Steps whose loss or gradients are not finite: skipped, logged, dumped and replayed."""
