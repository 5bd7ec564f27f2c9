"""Frozen tile encoders: from a base tile to its embedding."""
