"""Image files: read with the intended colours, written with their georeference."""
