"""The checks of `zoomldm doctor`: each module yields findings, one line each."""
