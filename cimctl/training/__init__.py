"""Training runs: the loop, metrics, checkpoints and summaries."""
