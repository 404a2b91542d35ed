"""What is measured while training: throughput, profiles, and the loggers that keep metrics."""
