"""What a model is worth: losses over whole splits, and their comparison."""
