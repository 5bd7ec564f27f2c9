"""Autoencoders compared on demo images: fidelity, texture, stripes, and statistics of their latents.

    python benchmarks/autoencoders.py --autoencoders demo --out benchmarks/autoencoders.md
    python benchmarks/autoencoders.py --autoencoders demo runs/vq --out benchmarks/autoencoders.md

Twelve held-out slides of the demo world (seeds 300 to 311), four regions of every scale of each: 48 images per scale,
decoded as by `ZoomLDM.decode`. The Frechet distance is that of the decoded images to their own
originals in the space of the demo's encoder, which no autoencoder was trained on. Operations are counted on one patch.
A table goes to --out, pictures beside it.

Shapes: n images of a scale, h = H/4 and w = W/4 the latents'.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.hardware import device_name
from data_prep.prepare import main as prepare
from ldm.data.cohort import open_cohort
from ldm.data.dataset import Cohort, image_batch
from ldm.encoders.tile_encoders import TileEncoder, load_encoder
from ldm.errors import UserError, cli
from ldm.evaluation.metrics.fidelity import psnr
from ldm.evaluation.metrics.frechet import frechet_distance, statistics_of
from ldm.evaluation.metrics.seams import cell_pattern, gradient_energy, radial_power_spectrum, spectral_distance
from ldm.evaluation.tables import markdown
from ldm.images.contact_sheet import Pixels, contact_sheet
from ldm.images.tensors import from_uint8, to_uint8
from ldm.networks.autoencoder import Autoencoder
from ldm.pipeline import load_autoencoder
from ldm.support.arguments import Parser, output_file, output_folder
from ldm.support.files import write_text
from ldm.training.texture import contrast_difference

SLIDES, SEED, PER_SLIDE = 12, 300, 4
RINGS = 24
NEIGHBOURS = range(3, 7)
"""how far below the finest frequency those lie that it is compared with, in cycles per image"""
SHOWN = 6


class DecodedFigures(NamedTuple):
    """Of one scale."""

    psnr: float
    """dB, mean"""
    psnr_median: float
    energy: float
    """gradient energy over the originals'"""
    spectra: float
    """mean |log| of the ratio of radial power spectra"""
    stripes: float
    """power at a period of 2 px over its neighbours', over the originals' ratio"""
    lattice: float
    """grey levels: root mean square over images of the error's pattern that repeats with every latent cell"""
    contrast: float
    """`ldm.training.texture.contrast_difference`: dots at the same places of every latent cell"""
    frechet: float

    def cells(self) -> list[str]:
        """Text, in the order of COLUMNS."""
        return [
            f"{self.psnr:.1f} ({self.psnr_median:.1f})",
            f"{self.energy:.2f}",
            f"{self.spectra:.2f}",
            f"{self.stripes:.1f}",
            f"{self.lattice:.2f}",
            f"{self.contrast:.2f}",
            f"{self.frechet:.1f}",
        ]


COLUMNS = ("PSNR, mean (median)", "gradient energy", "spectra", "stripes", "lattice", "contrast", "Frechet distance")


def held_out(folder: Path) -> Cohort:
    """The prepared images of the held-out slides, made when they are not there."""
    if not folder.is_dir():
        status = prepare(
            [
                *("--config", "configs/demo/data.yaml", f"out={folder}", f"slides={folder}_slides"),
                *(f"generate.count={SLIDES}", f"generate.seed={SEED}", f"regions_per_scale={PER_SLIDE}"),
                *("autoencoder=null", "images=png", "workers=0"),
            ]
        )
        if status:
            raise UserError(f"{folder}: the held-out slides could not be prepared; see {folder / 'report.json'}")
    return Cohort(open_cohort(folder))


def line_ratio(images: Pixels) -> float:
    """Power at a period of two pixels across rows and across columns over that of its neighbours, of n images."""
    grey = images.mean(-1)
    power = np.square(np.abs(np.fft.fft2(grey))).mean(0)  # (H, W)
    both = [(power[:, :2], len(power) // 2), (power.T[:, :2], power.shape[1] // 2)]
    finest = sum(lines[middle].mean() for lines, middle in both)
    return float(finest / sum(lines[[middle - n for n in NEIGHBOURS]].mean() for lines, middle in both))


def spectrum(images: Pixels) -> np.ndarray:
    """(rings,) mean radial power, without the ring of the mean."""
    return np.mean([radial_power_spectrum(image, RINGS) for image in images], axis=0)[1:]


@torch.no_grad()
def measure(images: Pixels, decoded: Pixels, encoder: TileEncoder) -> DecodedFigures:
    """`decoded` against their originals `images`, (n, H, W, 3) each."""
    each = psnr(decoded, images)
    features = [statistics_of(encoder(torch.from_numpy(x)).numpy()) for x in (decoded, images)]
    return DecodedFigures(
        psnr=float(np.mean(each)),
        psnr_median=float(np.median(each)),
        energy=_energy(decoded) / _energy(images),
        spectra=spectral_distance(spectrum(decoded), spectrum(images)),
        stripes=line_ratio(decoded) / line_ratio(images),
        lattice=float(np.sqrt(np.mean([cell_pattern(error) ** 2 for error in decoded.astype(float) - images]))),
        contrast=contrast_difference(from_uint8(images), from_uint8(decoded)).item(),
        frechet=frechet_distance(*features),
    )


def _energy(images: Pixels) -> float:
    return float(np.mean([gradient_energy(image) for image in images]))


def latent_line(z: Tensor) -> str:
    """Standard deviation of each channel, neighbours' correlation, and the share of power that 2x2 means keep."""
    centred = z - z.mean((0, 2, 3), keepdim=True)
    variance = centred.square().mean()
    neighbours = torch.stack([(a * b).mean() for a, b in _neighbours(centred)]).mean() / variance
    kept = torch.nn.functional.avg_pool2d(centred, 2).square().mean() / variance
    deviations = " ".join(f"{value:.2f}" for value in z.std((0, 2, 3)).tolist())
    return f"std {deviations}, neighbours correlate {neighbours:.2f}, 2x2 means keep {kept:.2f} of the power"


def _neighbours(z: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(z[..., 1:], z[..., :-1]), (z[..., 1:, :], z[..., :-1, :])]


def decode_operations(autoencoder: Autoencoder, tile_px: int) -> float:
    """GFLOP of decoding one patch, the codebook apart."""
    z = torch.zeros(1, 3, tile_px // autoencoder.downsample, tile_px // autoencoder.downsample)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        autoencoder.decode(z, quantize=False)
    return counter.get_total_flops() / 1e9


@torch.no_grad()
def decoded(autoencoder: Autoencoder, x: Tensor) -> tuple[Tensor, Pixels]:
    """Latents (n, 3, h, w) and decoded images (n, H, W, 3) of images (n, 3, H, W)."""
    z = torch.cat([autoencoder.encode(part) for part in x.split(8)])
    return z, np.concatenate([to_uint8(autoencoder.decode(part)) for part in z.split(8)])


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(
        description="Compare autoencoders on held-out demo slides; writes a table and pictures.",
        epilog="example: python benchmarks/autoencoders.py --autoencoders demo runs/vq",
    )
    parser.add_argument(
        "--autoencoders", nargs="+", default=["demo"], metavar="SOURCE", help="demo, or run folders (%(default)s)"
    )
    parser.add_argument(
        "--data", type=output_folder, default="data/demo/held_out_images", help="where the slides go (%(default)s)"
    )
    parser.add_argument("--out", type=output_file, default="benchmarks/autoencoders.md", help="(%(default)s)")
    args = parser.parse_args(argv)
    models = {Path(source).name: load_autoencoder(source)[0] for source in args.autoencoders}
    cohort, encoder = held_out(args.data), load_encoder("demo")
    machine = f"{device_name()}, float32"
    text = [f"`python benchmarks/autoencoders.py --autoencoders {' '.join(args.autoencoders)}`: {machine}"]
    originals = {scale.name: image_batch([pick for pick in cohort.spread(SLIDES * PER_SLIDE) if pick[1] == scale])
                 for scale in cohort.scales}  # fmt: skip
    shown: dict[str, list[list[Pixels]]] = {
        scale: [list(to_uint8(x[:: max(1, len(x) // SHOWN)][:SHOWN]))] for scale, x in originals.items()
    }
    for name, autoencoder in models.items():
        rows, latents = [], []
        for scale, x in originals.items():
            z, images = decoded(autoencoder, x)
            rows.append([scale, *measure(to_uint8(x), images, encoder).cells(), str(len(x))])
            latents.append(z)
            shown[scale].append(list(images[:: max(1, len(x) // SHOWN)][:SHOWN]))
        text += [f"\n## {name}\n", markdown(["scale", *COLUMNS, "images"], rows)]
        operations = decode_operations(autoencoder, cohort.tile_px)
        text.append(f"\nDecoding a patch: {operations:.3f} GFLOP. Latents: {latent_line(torch.cat(latents))}.")
        print("\n".join(text[-3:]), flush=True)
    write_text(args.out, "\n".join(text) + "\n")
    for scale, pictures in shown.items():
        labels = ["original", *models]
        contact_sheet(pictures, labels, [""] * SHOWN, args.out.with_name(f"{args.out.stem}_{scale}.png"))
    print(args.out)


if __name__ == "__main__":
    cli(main)
