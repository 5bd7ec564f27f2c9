"""The page of an endless slide: tiles are computed while they are looked at."""
