"""What belongs to an enlarged image, for `zoomldm view` and the preview page: layers/STEM.KIND.png beside it."""

from pathlib import Path

from ldm.images.contact_sheet import Pixels, save_png

KINDS = ("input", "bicubic", "mean", "truth", "spread", "residual")


BESIDE = (".bands.ome.tiff", ".bands.tif", ".spread.png", ".comparison.png")
"""ends of the files about several samples, and about the truth, that lie beside an image"""


def remove_figures_of(image: Path) -> None:
    """Remove what an earlier result of this name left beside the result `image`."""
    for end in BESIDE:
        image.with_name(f"{image.stem}{end}").unlink(missing_ok=True)
    write_layers(image, {})


def write_layers(image: Path, layers: dict[str, Pixels]) -> None:
    """Write `layers`, by KINDS, of the result `image`, and remove those that an earlier one left."""
    for kind in KINDS:
        path = image.parent / "layers" / f"{image.stem}.{kind}.png"
        if kind in layers:
            save_png(path, layers[kind])
        else:
            path.unlink(missing_ok=True)
