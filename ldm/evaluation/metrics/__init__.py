"""Numbers for images and sets of images."""
