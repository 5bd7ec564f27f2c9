"""Images -> numbers."""
