"""Turning a model's logits into text, and measuring what came out."""
