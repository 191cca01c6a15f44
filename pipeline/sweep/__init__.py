"""Sweeps: which runs make one, which setting came out best, and how sure that is."""
