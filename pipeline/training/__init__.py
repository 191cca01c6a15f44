"""The training engine: loop, optimizer, checkpoints, distribution."""
