"""The training engine: loop, optimizer, checkpoints."""
