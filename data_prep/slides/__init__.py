"""Slides and scenes: opened, read at a size on the ground, tissue found, regions laid out."""
