"""From paths to the entries of the page.

A file is one entry. Of a folder, at any depth, every slide, scene, picture and prepared slide (.h5) is one, and every
result of `zoomldm joint` (image.json) and of `zoomldm superres` (superres.json) is shown with what belongs to it:

    joint       image.tiff beside canvas_SCALE.tiff, the coarser canvases, and labels.png, the classes of a layout
    superres    NAME beside layers/STEM.input.png, .bicubic.png, .mean.png (of --samples) and .truth.png; over it
                .residual.png and .spread.png
    any         STEM.geojson beside a file: outlines

Pictures of a web page (in a folder with an index.html, as reports and exports have) are left out, and a note says so.
Only files that lie in the given paths are shown: of links in a folder those that do not lead out of it.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.slides.find import shown, slide_files, without_parts
from ldm.errors import UserError
from ldm.images.geojson import TISSUE_CLASS, is_kept
from ldm.scales import ladder
from ldm.view.entries import Entry, Layer
from ldm.view.image_readers import PREPARED
from ldm.view.overlays import TISSUE_NAME, Outline, moved, read_outlines

UNFINISHED = ".unfinished-page"
"""file in the folder of an exported page that is not complete"""
JOINT, SUPERRES = "image.json", "superres.json"
TIFFS = (".tiff", ".tif")
OVERLAYS = ("residual", "spread")
BEFORE, AFTER = {"input": "before", "bicubic": "bicubic"}, {"mean": "mean of samples", "truth": "truth"}
"""files in layers/ by the middle of their names -> what the page calls them, left and right of the result"""
SUMMARIES = (".spread.png", ".comparison.png", ".bands.ome.tiff", ".bands.tif")
"""files about images enlarged by superres, beside them, that are shown in full anyway"""
SAMPLED = ("image.", "picture.", "labels.", "canvas_")
"""beginnings of the names of the files of joint"""
WEB = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif")
"""pictures of web pages"""
LINKS, OF_PAGES = "links that lead out of it", "pictures of web pages (in folders with an index.html)"
"""what is left out"""
DEEPEST = 12
"""folders below a given one"""


def catalogue(paths: list[Path]) -> tuple[list[Entry], list[str]]:
    """The entries of `paths`, each once and under a name of its own, and notes on what was left out.

    UserError for a path that does not exist, a file that cannot be shown, and where there is nothing to show.
    """
    found: dict[tuple[str, ...], tuple[Path, Entry]] = {}
    notes: list[str] = []
    for path in paths:
        if path.is_dir():
            inside, left_out = _of_folder(path)
            told = [f"{shown(path)}: {count} {what} were left out; name them" for what, count in left_out.items()]
            if not inside:
                nothing = (
                    f"{path}: holds nothing that can be shown; expected slides, scenes, pictures, prepared slides "
                    "(.h5) or results of joint and superres"
                )
                raise UserError("; ".join(told) or nothing)
            for entry in inside:
                found.setdefault(_files(entry), (path, entry))
            notes += told
        else:
            entry = _of_file(path, shown(path.name))
            entry.described()  # so that a file that cannot be shown ends the command
            entry.outlines(entry)
            found.setdefault(_files(entry), (path.parent, entry))
    _name_apart(list(found.values()))
    return [entry for _, entry in found.values()], notes


def _files(entry: Entry) -> tuple[str, ...]:
    return tuple(os.path.abspath(layer.path) for layer in entry.layers)


def _name_apart(given: list[tuple[Path, Entry]]) -> None:
    """Put as many of the folders above before names that several entries have as tell them apart.

    The address of the page names an image by its name alone. `given` has the folder that each name is relative to; the
    name of a result that is this folder itself is empty, and becomes the folder's.
    """
    names = [[entry.name] if entry.name else [] for _, entry in given]
    above = [[shown(part) for part in folder.resolve().parts[1:]] for folder, _ in given]
    for depth in range(1, 1 + max(map(len, above), default=0)):
        count = Counter(entry.name for _, entry in given)
        for (_, entry), name, parts in zip(given, names, above, strict=True):
            if count[entry.name] > 1 or not entry.name:
                entry.name = "/".join([*parts[-depth:], *name])


def results_in(folder: Path) -> tuple[list[Entry], dict[str, Any]]:
    """The results of joint or superres that lie directly in a folder, and their settings and figures."""
    root = folder.resolve()
    entries = [*_joint(folder, root), *_superres(folder, root)]
    for entry in entries:
        entry.name = entry.name or shown(root.name)
    return entries, _record(folder / JOINT, root) or _record(folder / SUPERRES, root) or {}


def _of_folder(folder: Path) -> tuple[list[Entry], Counter[str]]:
    """The entries of a folder, and how many of what were left out; names are relative to it, empty for itself."""
    root, left_out = folder.resolve(), Counter[str]()
    entries: list[Entry] = []
    sampled, enlarged, known = set[Path](), set[Path](), set[Path]()
    names = ("index.html", UNFINISHED)
    places = [folder, *_folders(folder, DEEPEST)]
    pages = {place for place in places[1:] if any((place / name).is_file() for name in names)}
    for place in places:
        left_out[LINKS] += sum(path.is_symlink() and path.is_dir() and not _inside(path, root) for path in _seen(place))
        joint, superres = _joint(place, root), _superres(place, root)
        for entry in [*joint, *superres]:
            entry.name = _name(folder, place, entry.name)
            entries.append(entry)
            known |= {layer.path for layer in entry.layers}
        sampled |= {place} if joint else set()
        enlarged |= {place} if superres else set()
    files = slide_files(folder, "**/*")
    for path in [*without_parts(files), *_prepared(folder)]:
        summary = path.parent in sampled and path.name.startswith(SAMPLED)
        summary |= path.parent in enlarged and path.name.endswith(SUMMARIES)
        summary |= path.parent.name == "layers" and path.parent.parent in enlarged
        if path in known or summary or (path.exists() and not path.is_file()):
            continue
        if path.suffix.lower() in WEB and not pages.isdisjoint(path.parents):
            left_out[OF_PAGES] += 1
        elif not _inside(path, root):
            left_out[LINKS] += 1
        else:
            entries.append(_of_file(path, shown(path.relative_to(folder)), root))
    return sorted(entries, key=lambda entry: _natural(entry.name)), +left_out


def _prepared(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.[hH]5") if path.is_file() and not path.name.startswith("."))


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """Every folder below, links to folders left out."""
    if depth:
        for path in _seen(folder):
            if path.is_dir() and not path.is_symlink():
                yield path
                yield from _folders(path, depth - 1)


def _seen(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _name(folder: Path, place: Path, name: str) -> str:
    inside = shown(place.relative_to(folder))
    return name if inside == "." else f"{inside}/{name}" if name else inside


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which a2 comes before a10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name.casefold())]


def _inside(path: Path, root: Path | None) -> bool:
    """Whether the file that `path` leads to lies in `root`; without a root, anything does."""
    return root is None or path.resolve().is_relative_to(root)


def _of_file(path: Path, name: str, root: Path | None = None) -> Entry:
    """UserError for a path without a file, but not in a folder, where the page tells it."""
    if root is None and not path.exists():
        raise UserError(f"{path}: does not exist; check the path")
    if root is None and not path.is_file():
        raise UserError(f"{path}: is no regular file; give a file or a folder")
    if root is None and path.suffix.lower() == ".geojson":
        raise UserError(
            f"{path}: holds outlines alone; give the image, over which they are drawn if they lie beside it"
        )
    return Entry(name, [Layer(path.name, path)], outlines=partial(_outlines, path, root))


def _outlines(path: Path, root: Path | None, entry: Entry) -> list[Outline]:
    """Those of the GeoJSON beside a file, and the regions of a prepared slide; in pixels of the entry's main layer."""
    reader = entry.pyramid.reader
    place, size = reader.place, reader.size_l0
    origin, step = (float(reader.extent.x), float(reader.extent.y)), 1.0
    own: list[Outline] = []
    if path.suffix.lower() == PREPARED:
        from ldm.view.prepared import PreparedReader, region_outlines

        assert isinstance(reader, PreparedReader)
        own = region_outlines(reader.slide)
        place, size = reader.place_l0, reader.source_l0
        origin, step = reader.origin_l0, reader.slide.base_l0
    names = (".geojson", ".GeoJSON", ".GEOJSON")
    beside = next(filter(Path.is_file, map(path.with_suffix, names)), None)
    if beside is None or not _inside(beside, root):
        return own
    found = moved(read_outlines(beside, place, size), origin, step)
    if own:  # by prepare: the tissue itself, and the area of the regions that are shown one by one
        found = [each for each in found if not is_kept(each.name)]
        exact = any(each.name == TISSUE_CLASS for each in found)
        own = [each for each in own if not (exact and each.name == TISSUE_NAME)]
    return [*found, *own]


def _joint(folder: Path, root: Path) -> list[Entry]:
    """The result of `zoomldm joint` in a folder."""
    image = _first(folder, root, [f"image{suffix}" for suffix in (*TIFFS, ".png")])
    told = _record(folder / JOINT, root)
    if image is None or told is None:
        return []
    scales = _list(_mapping(told.get("settings")).get("scales"))
    finest = f"image at {scales[0]}" if scales else "image"
    canvases = {
        path.stem.removeprefix("canvas_"): path
        for path in sorted(folder.glob("canvas_*"))
        if path.suffix in TIFFS and _inside(path, root)
    }
    order = [scale for scale in scales if scale in canvases] or list(canvases)
    layers = [Layer(finest, image), *(Layer(f"canvas at {scale}", canvases[scale]) for scale in order)]
    labels = _first(folder, root, ["labels.png"])
    layers += [] if labels is None else [Layer("labels", labels)]
    return [Entry("", layers, [], partial(_outlines, image, root), "sampled by zoomldm joint")]


def _superres(folder: Path, root: Path) -> list[Entry]:
    """The results of `zoomldm superres` in a folder."""
    told = _record(folder / SUPERRES, root)
    names = [Path(str(_mapping(each).get("image"))).name for each in _list((told or {}).get("images"))]
    entries = []
    for path in (folder / name for name in names):
        if not path.is_file() or not _inside(path, root):
            continue
        before, after = (
            [
                Layer(label, beside)
                for middle, label in kinds.items()
                if (beside := _first(folder / "layers", root, [f"{path.stem}.{middle}{end}" for end in ENDS]))
            ]
            for kinds in (BEFORE, AFTER)
        )
        layers = [*before, Layer("enlarged", path), *after]
        outlines = partial(_outlines, path, root)
        about = "enlarged by zoomldm superres"
        entry = Entry(shown(path.name), layers, _overlays(path, root), outlines, about, main=len(before))
        entry.stated = _length_of(_mapping((told or {}).get("settings")).get("scales"))
        entries.append(entry)
    return entries


def _length_of(scales: Any) -> tuple[float, str] | None:
    """Length and unit of a pixel at the finest of `scales`; None where they are those of no ladder."""
    for zooms in map(ladder, ("histology", "satellite")):
        found = [zooms[name].downsample for name in _list(scales) if name in zooms.names]
        if found:
            return zooms.base_mpp * min(found), zooms.unit
    return None


ENDS = (".png", *TIFFS)


def _overlays(path: Path, root: Path) -> list[Layer]:
    folder = path.parent / "layers"
    found = [(kind, _first(folder, root, [f"{path.stem}.{kind}{end}" for end in ENDS])) for kind in OVERLAYS]
    return [Layer(kind, beside) for kind, beside in found if beside is not None]


def _first(folder: Path, root: Path, names: list[str]) -> Path | None:
    paths = (folder / name for name in names)
    return next((path for path in paths if path.is_file() and _inside(path, root)), None)


def _record(path: Path, root: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file; None where there is none."""
    if not path.is_file() or not _inside(path, root):
        return None
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
