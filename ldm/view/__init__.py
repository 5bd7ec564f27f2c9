"""Look at large images in a browser: `zoomldm view`.

A file or a folder becomes entries (catalogue.py); an entry has layers side by side, layers on top, and outlines
(entries.py). A layer is a pyramid of square tiles (pyramid.py) over the readers that preparation uses, so colours are
the same. The page (page/, with OpenSeadragon) asks a local server for tiles (server.py), or finds them in a folder
(export.py).
"""
