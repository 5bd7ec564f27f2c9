"""Several super-resolutions of one image: where they agree and what they invent.

NAME.samples/00003-<digest>.png    the sample of seed 3, which an interrupted command does not make again; its sha256
NAME.bands.ome.tiff                mean, spread, half of the 90 % interval, residual, and error where the truth is given
NAME.spread.png                    input, mean, spread, and error where the truth is given, side by side
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm.errors import UserError
from ldm.evaluation.experiments.image_sets import picture_loader
from ldm.images.band_tiff import band_suffix, write_bands
from ldm.images.contact_sheet import Pixels, contact_sheet, save_png
from ldm.images.pictures import WHOLE_PX
from ldm.images.rasters import Place
from ldm.multiscale.posterior import LEVEL, Load, PosteriorSamples, covered, posterior, shrunk
from ldm.pipeline import ZoomLDM
from ldm.support.arguments import LARGEST_SEED
from ldm.support.files import intact, write_sidecar

Values = NDArray[np.float32]
COLOURS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32)
"""of 0, 1/4, ... 1: black over red to yellow, which differ in lightness too"""


def kept_samples(
    args: argparse.Namespace,
    path: Path,
    digest: Callable[[argparse.Namespace], str],
    make: Callable[[argparse.Namespace], Iterable[Pixels]],
) -> list[Path]:
    """Samples of the image `path` for --samples seeds from --seed on, as files; those that are there are kept, if they
    are as they were written.

    `make` samples with the arguments it is given, in bands of rows; `digest` is that of all that the pixels depend on.
    """
    found = []
    for seed in range(args.seed, args.seed + args.samples):
        own = argparse.Namespace(**{**vars(args), "seed": seed})
        file = path.with_name(f"{path.stem}.samples") / f"{seed:05d}-{digest(own)}.png"
        if not (file.is_file() and intact(file)):
            save_png(file, np.concatenate(list(make(own))))
            write_sidecar(file)
        found.append(file)
    return found


def check_samples(args: argparse.Namespace, large: bool) -> None:
    """UserError for several samples of bicubic interpolation, which has one result, or of a large image."""
    if args.samples > 1 and args.method == "bicubic":
        raise UserError("--samples: bicubic interpolation has one result; choose --method zoomldm, or leave it out")
    if args.samples > 1 and large:
        raise UserError(f"--samples: of images up to {WHOLE_PX} px a side when enlarged; cut the image into parts")
    if args.seed + args.samples - 1 > LARGEST_SEED:
        raise UserError(f"--seed: {args.seed} leaves no seeds for {args.samples} samples; choose a smaller one")


def heat(values: Values, most: float) -> Pixels:
    """(h, w) from 0 to `most` in COLOURS (h, w, 3)."""
    place = (values / max(most, 1e-6)).clip(0, 1) * (len(COLOURS) - 1)
    steps = np.arange(len(COLOURS))
    return np.stack([np.interp(place, steps, COLOURS[:, k]) for k in range(3)], -1).round().astype(np.uint8)


def residual_of(mean: Values, y: Pixels) -> Values:
    """A mean - y, each value at all of its pixels (h, w, 3)."""
    factor = len(mean) // len(y)
    return np.kron(shrunk(mean, factor) - y, np.ones((factor, factor, 1), np.float32))


def bands_of(found: PosteriorSamples, y: Pixels, truth: Pixels | None) -> dict[str, Values]:
    """Bands (h, w) by name, in grey levels of 255."""
    colours = ("red", "green", "blue")
    parts = {"mean": found.mean, "spread": found.std, "half of interval": found.half_width()}
    parts["residual"] = residual_of(found.mean, y)
    if truth is not None:
        parts["error"] = found.mean - truth
    return {f"{name} {colour}": part[..., k] for name, part in parts.items() for k, colour in enumerate(colours)}


def layers_of(found: PosteriorSamples, y: Pixels) -> dict[str, Pixels]:
    """Mean, spread and residual (h, w, 3) as layers for `zoomldm view`; the last two in COLOURS, on one scale: that of
    the spread, so that a residual of rounding is black."""
    sizes = {"spread": found.spread, "residual": np.sqrt(np.square(residual_of(found.mean, y)).mean(2))}
    most = max(1.0, largest(found.spread))
    return {"mean": pixels_of(found.mean), **{name: heat(values, most) for name, values in sizes.items()}}


def pixels_of(mean: Values) -> Pixels:
    return mean.round().clip(0, 255).astype(np.uint8)


def largest(values: Values) -> float:
    """The end of a scale of colours."""
    return float(np.percentile(values, 99.5))


def shown_of(found: PosteriorSamples, y: Pixels, truth: Pixels | None) -> dict[str, Pixels]:
    """Input, mean and spread; with a truth, it and the error, on twice the scale of colours."""
    most = largest(found.spread)
    shown = {"input": y, "mean": pixels_of(found.mean)}
    shown[f"spread, 0 to {most:.0f} of 255"] = heat(found.spread, most)
    if truth is not None:
        error = np.sqrt(np.square(found.mean - truth).mean(2))
        shown |= {f"error, 0 to {2 * most:.0f} of 255": heat(error, 2 * most), "truth": truth}
    return shown


def by_scale(samples: Sequence[Load], truth: Pixels, model: ZoomLDM, scales: Sequence[str]) -> dict[str, float]:
    """Share of true values inside the interval, at the finest scale and at every coarser one up to that of y."""
    levels = sorted(model.ladder[name].index for name in scales)
    names = [zoom.name for zoom in model.ladder if levels[0] <= zoom.index <= levels[-1]]
    finest = model.ladder[names[0]].downsample
    factors = {name: model.ladder[name].downsample // finest for name in names}
    return {name: covered(posterior(samples, factor), truth, factor) for name, factor in factors.items()}


def write_samples(
    path: Path,
    samples: Sequence[Path],
    y: Pixels,
    truth: Pixels | None,
    model: ZoomLDM,
    scales: Sequence[str],
    place: Place | None,
) -> tuple[dict[str, Any], dict[str, Pixels]]:
    """Write bands and pictures beside `path`, the image; returns their figures, and layers of it."""
    loads = [picture_loader(sample) for sample in samples]
    found = posterior(loads)
    bands = path.with_name(f"{path.stem}.bands{band_suffix(place)}")
    write_bands(bands, bands_of(found, y, truth), min(model.ladder.um(name) for name in scales), place)
    shown = shown_of(found, y, truth)
    contact_sheet([list(shown.values())], [""], list(shown), path.with_name(f"{path.stem}.spread.png"))
    figures: dict[str, Any] = {"samples": len(samples), "files_of_samples": list(map(str, samples))}
    figures |= {"bands": str(bands), "spread": float(found.spread.mean())}
    if truth is not None:
        figures["interval"] = LEVEL
        figures["inside_interval"] = by_scale(loads, truth, model, scales)
    return figures, layers_of(found, y)
