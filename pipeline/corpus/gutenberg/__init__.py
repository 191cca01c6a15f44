"""Project Gutenberg as a corpus: choose in the catalogue, fetch politely, clean, leave out."""
