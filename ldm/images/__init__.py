"""Images on disk: read with the colours that were meant, written with their place on Earth."""
