"""The one training loop of the suite: batches, checkpoints, resuming, several processes."""
