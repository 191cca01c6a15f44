"""The model: GPT-2's architecture, its loss, its files."""
