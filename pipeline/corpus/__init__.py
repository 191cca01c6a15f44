"""From a corpus to token windows: prepare, tokenise, split, read."""
