"""Checks of a prepared slide before anything is read from it; the layout is described in ldm/data/h5.py.

Files are untrusted. Attributes must have the right type and be finite; datasets must have consistent ranks, types and
lengths, lie in the file itself with checksums, and occupy as many bytes on disk as their shape needs.

Shapes: n regions of a scale, d channels, s a latent's side.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from ldm.data.ids import is_safe_id
from ldm.errors import UserError
from ldm.scales import Ladder, ladder

FORMAT = "zoomldm-1"
REQUIRED = {
    "slide_id": str,
    "source": str,
    "kind": str,
    "scales": list,
    "tile_px": int,
    "base_mpp": float,
    "mpp_l0": float,
    "encoder": str,
    "autoencoder": str,
}
OPTIONAL = {
    "settings": str,
    "eligible": str,
    "latents_id": str,
    "width_l0": int,
    "height_l0": int,
    "mpp_from": str,
    "mpp_tag": str,
    "level": int,
    "level_mpp": float,
    "resampling": float,
    "read_mpp": float,
    "origin_x_l0": float,
    "origin_y_l0": float,
    "extent_l0": str,
    "crs": str,
    "transform": str,
    "notes": str,
    "seed": int,
}
POSITIVE = {"tile_px", "base_mpp", "mpp_l0", "level_mpp", "resampling", "read_mpp", "width_l0", "height_l0"}
NAMES = {str: "text", int: "a whole number", float: "a number", list: "a list of names"}
LARGEST = {"latents": 1e3, "embeddings": 1e4}
"""largest magnitude of a value: outputs of networks are far below, those of damaged ones often near float16's limit"""
COMPRESSION = 1100
"""that deflate cannot exceed"""


class Kind(NamedTuple):
    """The rank of a dataset and the letters of its types: f floating, i and u whole numbers."""

    rank: int
    types: str
    bytes: int | None = None
    """values of attributes for which only one value is right"""


TABLES = {
    "ij": Kind(2, "iu"),
    "tissue": Kind(1, "f"),
    "valid": Kind(1, "f"),
    "latents": Kind(4, "f"),
    "image_ends": Kind(1, "iu"),
}
"""of a scale, one row per region"""
NEEDED = ("ij", "tissue")
IMAGES, EMBEDDINGS, CORNERS = Kind(1, "u", 1), Kind(3, "f"), Kind(2, "iu")


def check_attributes(path: Path, found: Mapping[str, Any]) -> Ladder:
    """The ladder of a slide with these attributes. UserError for one that is missing, of another type, or absurd."""
    made = found.get("format", "none")
    if not isinstance(made, str) or made != FORMAT:
        raise UserError(f"{path}: format is {str(made)[:60]}, expected {FORMAT}; prepare this slide again")
    if missing := [key for key in REQUIRED if key not in found]:
        raise UserError(f"{path}: lacks {', '.join(missing)}; prepare this slide again")
    for key, kind in (REQUIRED | OPTIONAL).items():
        if key in found and not _suits(key, found[key], kind):
            expected = f"{NAMES[kind]}{' above 0' if key in POSITIVE else ''}"
            value = " ".join(repr(found[key]).split())[:80]
            raise UserError(f"{path}: {key} is {value}, expected {expected}; prepare this slide again")
    if not is_safe_id(found["slide_id"]):
        raise UserError(
            f"{path}: its slide_id is {found['slide_id'][:60]!r}, unfit for a file's name; prepare it again"
        )
    for key, (suits, expected) in TEXTS.items():
        if found.get(key) and not suits(found[key]):
            value = " ".join(found[key].split())[:80]
            raise UserError(f"{path}: {key} is {value!r}, expected {expected}; prepare this slide again")
    try:
        zooms = ladder(found["kind"], len(found["scales"]))
    except UserError as error:
        raise UserError(f"{path}: {error}; prepare this slide again") from error
    own: dict[str, Any] = {"scales": zooms.names, "base_mpp": zooms.base_mpp}
    for key, value in own.items():
        if found[key] != value:
            raise UserError(
                f"{path}: {key} is {found[key]}, expected {value} for {zooms.kind}; prepare this slide again"
            )
    return zooms


def _suits(key: str, value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return False
    suits = isinstance(value, int | float) and math.isfinite(value) if kind is float else isinstance(value, kind)
    return suits and (key not in POSITIVE or value > 0)


def _is_transform(text: str) -> bool:
    """Whether `text` is six finite numbers of an invertible transform."""
    try:
        a, b, c, d, e, f = map(float, text.split())
    except ValueError:
        return False
    return all(map(math.isfinite, (a, b, c, d, e, f))) and a * e != b * d


def _is_settings(text: str) -> bool:
    found = _parsed(text)
    return isinstance(found, dict) and isinstance(found.get("cohort", {}), dict)


def _is_counts(text: str) -> bool:
    found = _parsed(text)
    return isinstance(found, dict) and all(type(count) is int and count >= 0 for count in found.values())


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


TEXTS: dict[str, tuple[Callable[[str], bool], str]] = {
    "transform": (_is_transform, "six numbers that can be inverted, or nothing"),
    "settings": (_is_settings, "JSON as the preparation writes it"),
    "eligible": (_is_counts, "JSON of counts by scale"),
}
"""required content of optional text attributes"""


Find = Callable[[str], h5py.Dataset | None]
"""dataset by name, checked to lie in the file with checksums; None where there is none"""


def check_members(path: Path, root: h5py.Group, zooms: Ladder) -> None:
    """UserError for a scale, or a level of embeddings, that a slide of this ladder does not have."""
    levels = zooms.scales[-1].pyramid_level + 1
    for folder, own in (("scales", zooms.names), ("embeddings", list(map(str, range(levels))))):
        group = root.get(folder) if root.get(folder, getclass=True) is h5py.Group else ()
        for name in group or ():
            if name not in own:
                expected = f"expected {', '.join(own)}, as its scales say"
                raise UserError(f"{path}: holds {folder}/{str(name)[:60]}, {expected}; prepare this slide again")


def check_datasets(path: Path, find: Find, attrs: Mapping[str, Any], zooms: Ladder) -> list[str]:
    """Names of a slide's datasets. UserError for one that is missing or inconsistent with the others or with `attrs`.

    `attrs` have passed `check_attributes`.
    """
    check = _Checker(path, find)
    levels = zooms.scales[-1].pyramid_level + 1
    rows, cols, width = check("embeddings/0", EMBEDDINGS) or ()
    for level in range(1, levels):
        name = f"embeddings/{level}"
        check.same(name, check(name, EMBEDDINGS), (rows >> level, cols >> level, width))
    sides: dict[int, str] = {}
    for scale in zooms.names:
        folder = f"scales/{scale}"
        shapes = {
            table: shape
            for table, kind in TABLES.items()
            if (shape := check(f"{folder}/{table}", kind, table in NEEDED)) is not None
        }
        count = shapes["ij"][0]
        for table, shape in shapes.items():
            rest = {"ij": (2,), "latents": (3, *shape[2:])}.get(table, ())
            check.same(f"{folder}/{table}", shape, (count, *rest))
        has_images = check(f"{folder}/images", IMAGES, required="image_ends" in shapes) is not None
        if has_images and "image_ends" not in shapes:
            raise UserError(f"{path}: has no {folder}/image_ends; prepare this slide again with it")
        if "latents" in shapes:
            sides[_latent_side(path, folder, shapes["latents"], attrs["tile_px"])] = folder
        elif attrs["autoencoder"] and count:
            raise UserError(f"{path}: has no {folder}/latents; prepare this slide again with it")
    if len(sides) > 1:
        found = ", ".join(f"{folder} {side} a side" for side, folder in sides.items())
        raise UserError(f"{path}: latents of its scales differ in size ({found}); prepare this slide again")
    if (corners := check("unreadable", CORNERS, required=False)) is not None:
        check.same("unreadable", corners, (corners[0], 2))
    return check.found


def _latent_side(path: Path, folder: str, shape: tuple[int, ...], tile_px: int) -> int:
    height, width = shape[2:]
    if height != width or not 0 < height < tile_px or tile_px % height:
        raise UserError(
            f"{path}: {folder}/latents are {height}x{width}, expected squares that divide the {tile_px} px of a patch; "
            "prepare this slide again"
        )
    return height


class _Checker:
    """Checks each dataset by itself, and gives its shape."""

    def __init__(self, path: Path, find: Find) -> None:
        self.path, self._find = path, find
        self.found: list[str] = []

    def __call__(self, name: str, kind: Kind, required: bool = True) -> tuple[int, ...] | None:
        """The shape of `name`, None when there is none; UserError when it is `required` or not of its kind."""
        dataset = self._find(name)
        if dataset is None:
            if required:
                raise UserError(f"{self.path}: has no {name}; prepare this slide again with it")
            return None
        dtype = dataset.dtype
        if dtype.kind not in kind.types or dataset.ndim != kind.rank or kind.bytes not in (None, dtype.itemsize):
            raise UserError(
                f"{self.path}: {name} is {dtype} with {dataset.ndim} axes, expected {_words(kind)}; "
                "prepare this slide again"
            )
        stored = dataset.id.get_storage_size() * (1 if dataset.compression is None else COMPRESSION)
        if dataset.nbytes > stored:
            raise UserError(
                f"{self.path}: {name} says it has {dataset.nbytes:,} bytes, but the file holds "
                f"{dataset.id.get_storage_size():,} of it; prepare this slide again"
            )
        self.found.append(name)
        return dataset.shape

    def same(self, name: str, shape: tuple[int, ...] | None, expected: tuple[int, ...]) -> None:
        if shape != expected:
            raise UserError(f"{self.path}: {name} is {shape}, expected {expected}; prepare this slide again")


def _words(kind: Kind) -> str:
    values = "8-bit values" if kind.bytes == 1 else "floating-point numbers" if kind.types == "f" else "whole numbers"
    return f"{values} with {kind.rank}"
