"""Frozen tile encoders: a base tile to its embedding."""
