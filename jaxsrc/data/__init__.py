"""Data sets: arrays in memory, and batches as pure functions of (seed, step)."""
