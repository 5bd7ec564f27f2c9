"""Extract bags of tile features from a cohort, one file per slide."""

import argparse

import torch
from tqdm import tqdm

from ldm.commands.out_folder import out_folder
from ldm.data.bags import subsets
from ldm.data.cohort import open_cohort
from ldm.errors import UserError, when_stopped
from ldm.evaluation.mil.features import FeatureExtractor, Probe
from ldm.model_slides import matching_slide
from ldm.pipeline import ZoomLDM
from ldm.support.files import DiskFull
from ldm.support.precision import announce
from ldm.support.processes import launch


@when_stopped("the same command continues after the last complete bag")
def run(args: argparse.Namespace) -> int:
    """Status 0, or 1 when some slide failed."""
    files = open_cohort(args.cohort)
    fabric, processes = launch(args.devices, args.nodes, args.accelerator)
    model = ZoomLDM.load(args.model, device=fabric.device, precision=args.precision)
    args.out = out_folder(args, "features", model)
    if args.out.resolve().is_relative_to(args.cohort.resolve()):
        raise UserError(
            f"--out: {args.out} lies in the cohort {args.cohort}, whose .h5 files are all slides; choose a "
            "folder beside it"
        )
    if fabric.is_global_zero:
        announce(model.precision, model.device)
    names = args.scales or model.ladder.names[:1]
    zooms = sorted({model.ladder[name].index for name in names})
    extract = FeatureExtractor(
        model,
        [model.ladder.names[zoom] for zoom in zooms],
        args.out,
        args.source,
        Probe(args.block, args.t, args.clean, args.seed),
        args.batch_size,
        quiet=fabric.global_rank > 0,
    )
    failed = 0
    for number in tqdm(
        processes.local_indices(len(files)), desc=extract.folder.name, unit="slide", disable=extract.quiet
    ):
        try:
            extract(matching_slide(files[number].path, model))
        except DiskFull:
            raise
        except UserError as error:
            failed += 1
            tqdm.write(f"failed: {error}")
    failed = int(processes.all_reduce_sum(torch.tensor(failed)))
    if fabric.global_rank == 0:
        done = f"bags of {len(files) - failed} of {len(files)} slides are in {extract.folder}"
        print(done + (f"; {failed} failed" if failed else ""))
        bags = [extract.folder / f"{slide.attrs['slide_id']}.h5" for slide in files]
        if told := subsets([bag for bag in bags if bag.is_file()]):
            print(told)
    return 1 if failed else 0
