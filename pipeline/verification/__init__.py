"""A referee: every measured number of the comparison once more, by an implementation not ours."""
