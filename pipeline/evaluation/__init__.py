"""What a model is worth: its losses over whole splits, the same way for every model."""
