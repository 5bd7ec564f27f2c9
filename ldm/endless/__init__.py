"""A slide without borders: images at any place of an endless plane, each computed when it is asked for."""
