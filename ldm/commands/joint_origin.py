"""Where the conditions of a large image come from: a slide, an image, the CDM, a layout, or nowhere."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.commands.paint import (
    Painting,
    layout_contents,
)
from ldm.commands.real_pixels import RealPatch, patches_of
from ldm.encoders.tile_encoders import load_encoder
from ldm.errors import UserError
from ldm.images.pictures import read_located
from ldm.images.rasters import Place
from ldm.model_slides import kind_notes, matching_slide, tile_place
from ldm.multiscale.conditions import (
    Conditions,
    TokenMap,
    Unconditional,
    drawn_tokens,
    image_tokens,
    place_of,
    richest_place,
    tokens_at,
)
from ldm.multiscale.saved_states import StateFile
from ldm.pipeline import ZoomLDM
from ldm.support.bundled_models import BUNDLED
from ldm.support.cache import content
from ldm.support.files import check_inputs


@dataclass(frozen=True)
class Origin:
    """The conditions of an image, and what they depend on."""

    kind: str
    make: Callable[[], Tensor] | None = None
    """token map (d, rows, cols); None: unconditional"""
    weights: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    place: Place | None = None
    """geographic place of the first base tile, in base pixels"""
    real: Callable[[], Iterable["RealPatch"]] | None = None
    """what of the image is known, at its finest scale"""
    painting: Painting | None = None
    """the layout that they follow, if one was given"""
    slow: bool = False
    """whether they are expensive enough to be kept on disk"""

    def conditions(self, model: ZoomLDM, file: StateFile, first: bool) -> Conditions:
        if self.make is None:
            return Unconditional(model)
        return TokenMap(model, file.kept("conditions", self.make) if self.slow and first else self.make())


def check_options(args: argparse.Namespace) -> None:
    """UserError for a file that is missing, and for options that contradict each other, before a model is loaded."""
    if args.layout is None:
        given = [name for name in ("palette", "rest", "mpp") if getattr(args, name) is not None]
        if given:
            raise UserError(f"--{given[0]}: belongs to --layout, which is missing; give --layout, or leave it out")
    elif args.origin:
        raise UserError(f"--from: {args.origin} and --layout both say what the image shows; leave one out")
    elif args.label is not None:
        raise UserError(f"--label: {args.label[:80]} is for conditions of a CDM, not of a layout; leave one out")
    origin = args.origin if args.origin not in ("cdm", "none") else None
    check_inputs({"--from": origin, "--layout": args.layout, "--palette": args.palette})
    if args.place:
        place_of(args.place)


def painted(args: argparse.Namespace, painting: Painting, per_base: int) -> Origin:
    """Conditions that follow a layout; an image pixel is `per_base` base pixels wide."""
    layout, palette = painting.layout, painting.palette
    settings = {"place": args.place, "rest": layout.rest, "mpp": args.mpp}
    return Origin(
        "layout",
        lambda: layout.tokens(palette, painting.tile_px, args.seed),
        inputs={**layout_contents(args.layout), "palette": content(painting.path)},
        settings=settings,
        place=layout.place.scaled(1 / per_base) if layout.place else None,
        painting=painting,
    )


def origin_of(args: argparse.Namespace, model: ZoomLDM, scales: Sequence[str], size: tuple[int, int]) -> Origin:
    """What `--from` names. UserError when it does not suit the model."""
    bundled = BUNDLED.get(args.model)
    origin = args.origin or (str(bundled.slide) if bundled else "cdm")
    args.origin = origin
    if args.place and Path(origin).suffix != ".h5":
        raise UserError(f"--place: {args.place} names a base tile of a slide, but --from is {origin}; leave one out")
    if args.label is not None and origin != "cdm":
        raise UserError(f"--label: {args.label[:80]} is for conditions of a CDM, not of {origin}; add --from cdm")
    if origin == "none":
        return Origin("none")
    zooms = sorted((model.ladder[name] for name in scales), key=lambda zoom: zoom.index)
    tile = model.tile_px // zooms[0].downsample
    rows, cols = (-(-length // tile) for length in size)
    if origin == "cdm":
        cdm = model.cdm_needed
        label = args.label
        settings = {} if label is None else {"label": cdm.number_of(label)}
        draw = partial(drawn_tokens, model, zooms[-1].name, rows, cols, seed=args.seed, label=label, progress=True)
        return Origin("cdm", draw, cdm.weights, settings=settings, slow=True)
    if Path(origin).suffix == ".h5":
        slide = matching_slide(origin, model)
        place = place_of(args.place) if args.place else richest_place(slide, zooms[-1].name, rows, cols)
        args.place = f"{place[0]},{place[1]}"
        tokens = tokens_at(slide, place, rows, cols)
        note_edge(origin, tokens, rows, cols)
        inputs, settings = {"slide": content(origin)}, {"place": args.place}
        real = partial(patches_of, slide, zooms[0], place, size)
        where = tile_place(slide, place)
        return Origin("slide", lambda: tokens, inputs=inputs, settings=settings, place=where, real=real)
    (picture, ground, notes), embed = read_located(Path(origin)), load_encoder(model.encoder)
    for note in (*notes, *kind_notes(ground, model, model.ladder.names[0])):
        print(f"{origin}: {note}", file=sys.stderr)
    tokens = image_tokens(picture.pixels, embed, model.tile_px)
    note_edge(origin, tokens, rows, cols)
    whole = [RealPatch(0, 0, picture.pixels)] if zooms[0].index == 0 else []
    inputs = {"picture": content(origin)}
    return Origin("picture", lambda: tokens, {"encoder": embed.id}, inputs, place=ground, real=lambda: whole)


def note_edge(origin: str, tokens: Tensor, rows: int, cols: int) -> None:
    """A warning where `tokens` (d, R, C) are of fewer base tiles than the `rows` x `cols` of the image."""
    height, width = tokens.shape[1:]
    if height < rows or width < cols:
        print(
            f"{origin}: has {height}x{width} of the image's {rows}x{cols} base tiles there; beyond them the conditions "
            "of its edge are repeated, so choose a smaller --size or another place",
            file=sys.stderr,
        )
