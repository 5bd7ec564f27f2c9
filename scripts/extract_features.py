"""Features of every tile of a cohort from the denoiser: .h5 bags that CLAM, TRIDENT and torchmil read.

Several scales are fused: a row for each tile of the finest one, with the features of the coarser regions around it
beside its own. An interrupted command, typed again, goes on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from ldm.arguments import ACCELERATORS, Parser, non_negative_int, output_folder, positive_int, seed_int
from ldm.data.cohort import open_cohort
from ldm.errors import UserError, cli
from ldm.features import SOURCES, Extractor, Probe
from ldm.files import DiskFull
from ldm.pipeline import ZoomLDM
from ldm.precision import add_precision, announce
from ldm.processes import launch
from ldm.slides import matching_slide


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        description="Extract tile features of a prepared cohort, a bag (.h5) a slide.",
        epilog="example: python scripts/extract_features.py data/mine --scales 20x,5x --model runs/NAME --devices 8",
    )
    add = parser.add_argument
    add("cohort", type=Path, help="folder of prepared slides; prepare with regions_per_scale=null tissue_share=0")
    add("--model", default="demo", help="demo (the default), a run folder or a published weights file")
    add("--scales", help="one, or several to fuse, separated by commas; default: the finest")
    add("--source", choices=SOURCES, default=SOURCES[0], help="encoder: the embeddings alone (%(default)s)")
    add("--block", type=non_negative_int, default=Probe.block, help="output block of the U-Net, from 0 (%(default)s)")
    add("--t", type=non_negative_int, default=Probe.t, help="diffusion time (%(default)s)")
    add("--clean", action="store_true", help="feed latents as they are; default: noised to t")
    add("--seed", type=seed_int, default=Probe.seed, help="of that noise (%(default)s)")
    add_precision(parser.add_argument)
    add("--batch-size", type=positive_int, default=Extractor.batch_size, help="tiles at a time (%(default)s)")
    add("--devices", type=positive_int, default=1, help="GPUs or processes that share the slides (%(default)s)")
    add("--nodes", type=positive_int, default=1, help="(%(default)s)")
    add("--accelerator", choices=ACCELERATORS, default="auto", help="cpu, cuda ... (%(default)s)")
    add("--out", type=output_folder, default="features", help="folder; bags go to OUT/SOURCE-SCALES/ (%(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0, or 1 when some slide failed."""
    args = parse_args(argv)
    fabric, processes = launch(args.devices, args.nodes, args.accelerator)
    model = ZoomLDM.load(args.model, device=fabric.device, precision=args.precision)
    if fabric.is_global_zero:
        announce(model.precision, model.device)
    names = args.scales.split(",") if args.scales else model.ladder.names[:1]
    rungs = sorted({model.ladder[name].index for name in names})
    extract = Extractor(
        model,
        [model.ladder.names[rung] for rung in rungs],
        args.out,
        args.source,
        Probe(args.block, args.t, args.clean, args.seed),
        args.batch_size,
        quiet=fabric.global_rank > 0,
    )
    files = open_cohort(args.cohort)
    failed = 0
    for number in tqdm(processes.mine(len(files)), desc=extract.folder.name, unit="slide", disable=extract.quiet):
        try:
            extract(matching_slide(files[number].path, model))
        except DiskFull:
            raise
        except UserError as error:
            failed += 1
            tqdm.write(f"failed: {error}")
    failed = int(processes.total(torch.tensor(failed)))
    if fabric.global_rank == 0:
        done = f"bags of {len(files) - failed} of {len(files)} slides are in {extract.folder}"
        print(done + (f"; {failed} failed" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    cli(main)
