"""Where a command writes when no --out is given: each model has a folder of its own, so that none overwrites another's.

samples/joint                                   # of the demo model
samples/joint/NAME-<12 hex>                     # of any other weights; of another CDM, too
"""

import argparse
from collections.abc import Collection, Iterable
from pathlib import Path

from ldm.errors import UserError
from ldm.pipeline import ZoomLDM
from ldm.support.bundled_models import MODELS
from ldm.support.files import check_destination


def out_folder(args: argparse.Namespace, usual: str, model: ZoomLDM | None) -> Path:
    """--out or, where it was not given, the folder of `model` in `usual`. UserError where nothing can be written."""
    if args.out is not None:
        return Path(args.out)
    own_cdm = getattr(args, "cdm", None) is None
    folder = Path(usual)
    if args.model in MODELS and own_cdm:
        folder /= "" if args.model == "demo" else args.model
    elif model is not None:
        folder /= model.id if own_cdm or model.cdm is None else f"{model.id}+{model.cdm.id}"
    check_destination(folder, folder=True)
    return folder


def refuse_overwriting(inputs: Iterable[Path], out: Path, names: Collection[str] = ()) -> None:
    """UserError where an input lies in the folder that results go to, with `names`: under one of these names there.

    Its result would take its place.
    """
    for path in inputs:
        places = {path.resolve(), path.parent.resolve() / path.name}  # of a link: its target's, too
        if any(place.parent == out.resolve() and (not names or place.name in names) for place in places):
            raise UserError(
                f"--out: {out} is where {path.name} lies, which would be overwritten; choose another folder"
            )
