"""The sample stage: a grid of settings drawn, measured and shown."""
