"""Scores of an enlarged image against its truth: figures, a table and a picture."""

from functools import cache
from pathlib import Path
from typing import Any

from ldm.encoders.demo_encoder import DEMO_WEIGHTS, DemoEncoder
from ldm.evaluation.metrics.fidelity import Lpips, encoder_distance, psnr, ssim
from ldm.images.contact_sheet import Pixels, contact_sheet
from ldm.images.tensors import from_uint8
from ldm.multiscale.constraint import Residual


def compare(images: dict[str, Pixels], path: Path) -> None:
    """The images side by side, with an enlarged crop of the middle of each below."""
    middles = [[slice(3 * length // 8, 5 * length // 8) for length in image.shape[:2]] for image in images.values()]
    details = [image[*middle] for image, middle in zip(images.values(), middles, strict=True)]
    contact_sheet([list(images.values()), details], ["", ""], list(images), path)


@cache
def metric_networks() -> tuple[DemoEncoder, Lpips | None]:
    """The networks that compare images, loaded once."""
    return DemoEncoder.load(DEMO_WEIGHTS, "cpu"), Lpips.found()


def residual(image: Pixels, y: Pixels) -> float:
    """Root mean square of A x - y in [-1, 1]: how much the image, shrunk by means, differs from y."""
    measured = Residual(from_uint8(y[None])[0], len(image) // len(y))
    measured.add(from_uint8(image[None])[0])
    return measured.rms


def scores(image: Pixels, y: Pixels, truth: Pixels) -> dict[str, float | None]:
    """Scores of `image` against the truth, and the residual of its means against y."""
    encoder, lpips = metric_networks()
    pair = image[None], truth[None]
    return {
        "PSNR": float(psnr(*pair)[0]),
        "SSIM": float(ssim(*pair)[0]),
        "LPIPS": None if lpips is None else float(lpips(*pair)[0]),
        "encoder": float(encoder_distance(encoder.maps, *pair)[0]),
        "|Ax-y|": residual(image, y),
    }


def report(figures: dict[str, Any]) -> None:
    """One line, and a table where there was a truth."""
    line = f"{figures['image']}   {figures['width']}x{figures['height']}   {figures['seconds']} s"
    if "residual" in figures:
        line += f"   residual |Ax-y| {figures['residual_before']:.4f} -> {figures['residual']:.4f}"
    if "spread" in figures:
        line += f"   {figures['samples']} samples, mean spread {figures['spread']:.1f} of 255"
    print(line)
    if inside := figures.get("inside_interval"):
        shares = ", ".join(f"{share:.0%} at {scale}" for scale, share in inside.items())
        print(f"{'':10} inside their {figures['interval']:.0%} interval: {shares}")
    table = figures.get("scores", {})
    if table:
        print(" " * 10, *(f"{name:>8}" for name in next(iter(table.values()))))
    for name, row in table.items():
        print(f"{name:10}", *("       -" if value is None else f"{value:8.4g}" for value in row.values()))
