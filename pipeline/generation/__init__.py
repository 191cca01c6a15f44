"""Turning a model's logits into text."""
