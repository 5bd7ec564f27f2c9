"""The page as a folder that opens from disk: every tile a file, no server, no network."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from ldm.errors import UserError
from ldm.support.files import report_disk_full, write_text
from ldm.view.catalogue import UNFINISHED
from ldm.view.site import Site

PAGE = "index.html"
PARTS = ("entries", "outlines", "thumbnails", "tiles")
"""folders of an export"""


def export(site: Site, folder: Path) -> Path:
    """Write the page of `site` into `folder`, new, empty or with an export that was stopped, which begins again;
    returns the path of its index.html.

    The page itself is written last. UserError for a folder that holds something else, for a file that cannot be shown,
    and for a full disk.
    """
    unfinished = folder / UNFINISHED
    if folder.exists() and any(folder.iterdir()) and not unfinished.is_file():
        raise UserError(f"--export: {folder} is not empty; choose a new folder")
    _write(unfinished, b"")
    (folder / PAGE).unlink(missing_ok=True)
    for part in PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)
    for number, entry in enumerate(site.entries):
        entry.described()
        entry.outlines(entry)
        _write(folder / "entries" / f"{number}.js", site.entry(number).encode())
        _write(folder / "outlines" / f"{number}.js", site.outlines(number).encode())
        _write(folder / "thumbnails" / f"{number}.png", site.thumbnail(number))
        tiles = list(_tiles(site, number))
        for layer, level, col, row in tqdm(tiles, entry.name, unit="tile", disable=None):
            path = folder / "tiles" / str(number) / str(layer) / str(level) / f"{col}_{row}.png"
            _write(path, site.tile(number, layer, level, col, row))
    for name, content in site.files.items():
        if name != PAGE:
            _write(folder / name, content)
    write_text(folder / PAGE, site.files[PAGE].decode())
    unfinished.unlink()
    return folder / PAGE


def _write(path: Path, content: bytes) -> None:
    """Not synced to the disk one by one, as there are very many; an export is complete once it has an index.html."""
    with report_disk_full(path, lambda: len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _tiles(site: Site, number: int) -> Iterator[tuple[int, int, int, int]]:
    """(layer, level, col, row) of every tile of an entry."""
    for layer, shown in enumerate(site.entries[number].all_layers()):
        for level, size in enumerate(shown.pyramid.levels):
            columns, rows = size.tiles
            yield from ((layer, level, col, row) for row in range(rows) for col in range(columns))
