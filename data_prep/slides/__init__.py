"""Slides and scenes: finding and reading files, detecting tissue, laying out regions."""
