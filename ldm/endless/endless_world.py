"""A slide without borders: its image at any place and scale, computed when it is asked for.

    world = World(model, seed=3)
    world["20x", -1000:24, 512:1536]                # uint8 (1024, 1024, 3): rows -1000 to 24, columns 512 to 1536

Coordinates are pixels of the scale that is asked for, of either sign; (0, 0) is the same place at all scales. An image
is a function of the model, the seed and the place: the same bytes in any order of visits, region by region or at once,
and after a restart, on one machine with the same settings.

The coarsest scale is free, every finer one is constrained by the next coarser one (`ldm.endless.plane`). Images are
computed in chunks, several at a time on a processor, each on one thread; on a card, windows are denoised in batches.

Shapes: h, w pixels.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ldm.endless import drawn_map
from ldm.endless.decoded_areas import MARGIN, decoded
from ldm.endless.drawn_map import DrawnMap
from ldm.endless.folder_cache import FolderCache
from ldm.endless.lattice import Area, WindowLattice
from ldm.endless.memo import Key, Memo
from ldm.endless.plane import HIDING, ON_CARD, PARTS, ScalePlane, beginning, groups_of, walk
from ldm.errors import UserError
from ldm.images.contact_sheet import Pixels
from ldm.images.tensors import from_uint8, to_uint8
from ldm.multiscale.constraint import TAPS, Shrink, back_project
from ldm.multiscale.model import MultiscaleModel
from ldm.multiscale.presets import PRESETS, Settings, adapted
from ldm.support.cache import Identity

CHUNK, COARSE_CHUNK = 1, 1 / 2
"""patches a side of a chunk, the part of an image that is decoded at a time; of the finest scale and of the others, of
which a view at the finest needs little"""
STEPS = 6
"""of a model that is not distilled; ten look much the same and take half as long again"""
NOISE = 0.2
"""`Rule.noise` of such a model; less leaves specks, since corrections in few steps are large, and more a lattice"""


class World:
    """An endless slide of a model, by scale and place."""

    def __init__(
        self,
        model: MultiscaleModel,
        scales: Sequence[str] | None = None,
        *,
        seed: int = 0,
        settings: Settings | None = None,
        cache: Path | None = None,
        threads: int | None = None,
    ) -> None:
        """`scales`: by default every second one from the finest on, and the coarsest. `settings`: by default those of
        `usual_settings`. `cache`: a folder in which results are kept. `threads`: chunks at a time on a processor, by
        default one per core.

        UserError for scales that the model lacks, and without a CDM.
        """
        self.model, self.seed, self.settings = model, seed, adapted(settings or usual_settings(model), model)
        zooms = {model.ladder[name] for name in scales or usual_scales(model)}
        self.scales = [zoom.name for zoom in sorted(zooms, key=lambda zoom: zoom.index)]
        """finest first"""
        identity = self.identity
        self.memo = Memo(FolderCache(cache, identity.digest) if cache else None)
        conditions = DrawnMap(model, self.scales[-1], seed, self.memo)
        self.planes = {scale: self._plane(scale, conditions) for scale in self.scales}
        self._chunks = {scale: WindowLattice(px, px) for scale, px in self.chunk_px.items()}
        single = None if self._batches else partial(torch.set_num_threads, 1)
        self._pool = ThreadPoolExecutor(self._workers(threads), "world", initializer=single)

    @property
    def identity(self) -> Identity:
        """All that the pixels depend on."""
        settings = {
            "scales": self.scales,
            "seed": self.seed,
            "precision": self.model.precision,
            "device": self.model.device.type,
            "torch": torch.__version__,
            "processor": torch.backends.cpu.get_cpu_capability(),
            "sampling": asdict(self.settings),
            "groups": [PARTS, HIDING],
            "chunks": [CHUNK, COARSE_CHUNK, MARGIN],
            "cells": [drawn_map.DRAW_STEPS, drawn_map.INVERT_STEPS],
        }
        return Identity("world", {**self.model.weights, **self.model.cdm_weights}, settings=settings)

    @property
    def chunk_px(self) -> dict[str, int]:
        """Pixels a side of a chunk of each scale."""
        sides = {scale: CHUNK if scale == self.scales[0] else COARSE_CHUNK for scale in self.scales}
        return {scale: int(side * self.model.tile_px) for scale, side in sides.items()}

    def um(self, scale: str) -> float:
        """um per pixel of a scale."""
        return self.model.ladder.um(scale)

    def __getitem__(self, place: tuple[str, slice, slice]) -> Pixels:
        """The image (h, w, 3) of rows and columns of a scale. UserError for a scale or a place that there is not."""
        scale, *sides = place
        self._check(scale)
        if any(side.start is None or side.stop is None or side.step or side.stop <= side.start for side in sides):
            raise UserError(f"world: rows {sides[0]}, columns {sides[1]}; expected two ends each, for example 0:512")
        area = Area(sides[0].start, sides[1].start, sides[0].stop, sides[1].stop)
        chunks = self._chunks[scale]
        numbers = chunks.covering(area)
        image = np.empty((area.height, area.width, 3), np.uint8)
        waiting = [self.submit(scale, *number) for number in numbers]
        for number, chunk in zip(numbers, waiting, strict=True):
            common = chunks.area(*number).common(area)
            image[common.within(area)] = chunk.result()[common.within(chunks.area(*number))]
        return image

    def bands(self, scale: str, area: Area) -> Iterator[Pixels]:
        """The image of an area in bands of rows (h, w, 3), top to bottom: memory does not grow with its height."""
        self._check(scale)
        side = self.chunk_px[scale]
        for edge in range(area.top // side * side, area.bottom, side):
            rows = slice(max(edge, area.top), min(edge + side, area.bottom))
            yield self[scale, rows, area.left : area.right]

    def submit(self, scale: str, row: int, col: int) -> "Future[Pixels]":
        """Begin to compute a chunk of `chunk_px[scale]` pixels a side; a future that has not begun can be cancelled."""
        self._check(scale)
        return self._pool.submit(self._chunk, scale, row, col)

    def submit_draft(self, row: int, col: int) -> "Future[Pixels]":
        """As `submit`: an early, blurred image of `draft_px` pixels a side of the coarsest scale, to be shown until
        there is a better one. It begins at row draft_px `row` + `draft_offset_px`, and so does its column.
        """
        return self._pool.submit(self._draft, row, col)

    @property
    def draft_px(self) -> int:
        """Pixels a side of a draft: a window of the first group without what its neighbours overlap."""
        return self._first.stride * self.model.downsample

    @property
    def draft_offset_px(self) -> int:
        """Where draft (0, 0) begins on both axes."""
        return (self._first.offset + (self._first.side - self._first.stride) // 2) * self.model.downsample

    @property
    def _first(self) -> WindowLattice:
        return self.planes[self.scales[-1]].groups[0].lattice

    def close(self) -> None:
        """Begin nothing more, and wait for the windows that are being denoised; chunks that need more are given up."""
        self.memo.stop()
        self._pool.shutdown(cancel_futures=True)

    @property
    def _batches(self) -> bool:
        """Whether windows are denoised in batches, rather than several threads side by side."""
        return self.model.device.type != "cpu"

    def _workers(self, threads: int | None) -> int:
        forward_mode = self.settings.rule.codec == "jvp"  # whose levels all threads share
        return 1 if self._batches or forward_mode else threads or len(os.sched_getaffinity(0))

    def _check(self, scale: str) -> None:
        if scale not in self.scales:
            raise UserError(f"world: scale {scale[:40]}; it has {', '.join(self.scales)}")

    def _coarser(self, scale: str) -> str | None:
        return next(iter(self.scales[self.scales.index(scale) + 1 :]), None)

    def _plane(self, scale: str, conditions: DrawnMap) -> ScalePlane:
        above, model, settings = self._coarser(scale), self.model, self.settings
        factor = model.ladder[above].downsample // model.ladder[scale].downsample if above else 1
        fine = settings.fine_guidance if scale == self.scales[0] and above else None
        first = beginning(walk(settings, model.alpha_bar)) if above and settings.rule.inner else 0
        return ScalePlane(
            model=model,
            scale=scale,
            settings=settings,
            guidance=settings.guidance if fine is None else fine,
            groups=groups_of(
                PARTS,
                range(first, settings.steps),
                model.tile_px // model.downsample,
                max(1, factor // model.downsample),
                ON_CARD if self._batches else 1,
            ),
            conditions=conditions,
            memo=self.memo,
            seed=self.seed,
            coarser=partial(self._image, above) if above else None,
            factor=factor,
        )

    def _chunk(self, scale: str, row: int, col: int) -> Pixels:
        key = Key("image", scale, 0, row, col)
        return self.memo.get(key, partial(self._painted, key)).numpy()

    def _draft(self, row: int, col: int) -> Pixels:
        def make() -> Tensor:
            with torch.no_grad():
                z_0 = self.planes[scale].draft(row, col)
                image = to_uint8(self.model.decode_sampled(z_0[None]))[0]
                return torch.from_numpy(image[margin : margin + side, margin : margin + side].copy())

        scale, side = self.scales[-1], self.draft_px
        margin = (self.model.tile_px - side) // 2
        return self.memo.get(Key("draft", scale, 0, row, col), make).numpy()

    def _image(self, scale: str, area: Area) -> Tensor:
        """The image (3, h, w) in [-1, 1] of an area of a scale."""
        numbers = self._chunks[scale].covering(area)
        chunks = self.memo.all([Key("image", scale, 0, *number) for number in numbers], self._painted)
        image = np.empty((1, area.height, area.width, 3), np.uint8)
        for number, chunk in zip(numbers, chunks, strict=True):
            place = self._chunks[scale].area(*number)
            common = place.common(area)
            image[0][common.within(area)] = chunk.numpy()[common.within(place)]
        return from_uint8(image)[0].to(self.model.device)

    @torch.no_grad()
    def _painted(self, key: Key) -> Tensor:
        """The image (h, w, 3) of a chunk, uint8, on the CPU."""
        scale, plane, rounds = key.scale, self.planes[key.scale], self.settings.rounds
        area = self._chunks[scale].area(key.row, key.col)
        if plane.coarser is None or not rounds:
            image = decoded(self.model, plane.latents, area, self.memo, scale)[None]
        else:
            wide = area.over(plane.factor).grown(TAPS // 2 * rounds)  # coarse pixels that corrections reach
            y, shrink = plane.coarser(wide), Shrink(plane.factor)
            wide = wide.times(plane.factor)
            image = decoded(self.model, plane.latents, wide, self.memo, scale)[None]
            image = back_project(image, y[None], shrink, rounds, self.settings.share)[:, :, *area.within(wide)]
        return torch.from_numpy(to_uint8(image)[0])


def usual_scales(model: MultiscaleModel) -> list[str]:
    """Every second scale of a model's ladder from the finest on, and the coarsest."""
    names = model.ladder.names
    return list(dict.fromkeys([*names[::2], names[-1]]))


def usual_settings(model: MultiscaleModel) -> Settings:
    """Those of joint sampling in fewer steps, STEPS, since someone waits, with errors of corrections taken for NOISE.

    A distilled model takes the steps that it was trained for, without guidance; the coarser image constrains all but
    the last, which adds texture.
    """
    settings, steps = adapted(PRESETS["default"], model), model.evaluations
    if steps is None:
        return replace(settings, steps=STEPS, rule=replace(settings.rule, noise=NOISE))
    rule = replace(settings.rule, until=1 - 1 / steps if steps > 1 else 1.0)
    return replace(settings, steps=steps, timesteps="log-SNR", guidance=1.0, fine_guidance=None, rule=rule)
