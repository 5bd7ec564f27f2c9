"""What belongs to an enlarged image, for `zoomldm view` and the preview page: layers/STEM.KIND.png beside it."""

from pathlib import Path

from ldm.images.contact_sheet import Pixels, save_png

KINDS = ("input", "bicubic", "truth", "spread", "residual")


def write_layers(image: Path, layers: dict[str, Pixels]) -> None:
    """Write `layers`, by KINDS, of the result `image`, and remove those that an earlier one left."""
    for kind in KINDS:
        path = image.parent / "layers" / f"{image.stem}.{kind}.png"
        if kind in layers:
            save_png(path, layers[kind])
        else:
            path.unlink(missing_ok=True)
