"""Metrics of images and sets of images."""
