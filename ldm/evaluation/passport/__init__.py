"""The passport of a set of generated images: what anyone can check of two folders of images, without the generator."""
