"""Readers of real sets, the embedded world, weights and how they are found."""
