"""Pure maths, no weights."""
