"""Sweeps: which runs make one, which setting is lowest, and whether that is more than chance."""
