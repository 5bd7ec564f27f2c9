"""Images of other methods, given as folders: --generated NAME=FOLDER."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ldm.errors import UserError
from ldm.evaluation.experiments.image_sets import picture_loader
from ldm.evaluation.metrics.extractors import Loader
from ldm.images.pictures import listed


def check_names(generated: Mapping[str, Path], taken: Sequence[str]) -> None:
    """UserError for a name that is another row's."""
    for name in generated:
        if name in taken:
            raise UserError(f"--generated: {name} is the name of another row; choose a name that is none of its own")


def large_images_of(folder: Path, size: tuple[int, int]) -> list[Loader]:
    """All images of `folder`. UserError unless each has the height and width of the real ones, in pixels."""
    paths = listed([folder])
    for path in paths:
        check_size(path, size, "as the real images")
    return [picture_loader(path) for path in paths]


def check_size(path: Path, size: tuple[int, int], why: str) -> None:
    """UserError unless the image has that height and width in pixels."""
    found = picture_loader(path)().shape[:2]
    if found != size:
        (height, width), (rows, columns) = size, found
        raise UserError(f"{path}: is {columns}x{rows} px; expected {width}x{height}, {why}")


def enlarged_of(folder: Path, truths: Mapping[str, tuple[int, int]]) -> list[Loader]:
    """The images of `folder` that are named as the `truths`, each with its height and width in pixels.

    UserError for a missing image, and for one of another size.
    """
    found = {path.stem: path for path in listed([folder])}
    if missing := [name for name in truths if name not in found]:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{folder}: lacks {missing[0]}.png{more}; expected an image named as each of the real ones")
    for name, size in truths.items():
        check_size(found[name], size, f"as the real {name}")
    return [picture_loader(found[name]) for name in truths]
