"""From a corpus to training, validation and test tokens on disk."""
