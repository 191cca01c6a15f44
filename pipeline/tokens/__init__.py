"""GPT-2's tokenizer, and tokens on disk as the windows that a model reads."""
