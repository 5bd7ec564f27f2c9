"""The demo world: procedural slides and scenes."""
