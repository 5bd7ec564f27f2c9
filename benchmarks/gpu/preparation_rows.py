"""Rows of preparation: tiles through a published tile encoder, as `data_prep.prepare` runs it."""

import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.gpu.meter import GpuRow, Meter
from benchmarks.gpu.sampling_rows import Bench
from data_prep.workers.networks import FULL_BATCH_GPU, Network, in_precision
from ldm.encoders.table import PUBLISHED
from ldm.encoders.tile_encoders import load_encoder
from ldm.encoders.timm_encoder import build
from ldm.evaluation.experiments.operations import gflop


def embedding(bench: Bench, precision: str) -> GpuRow:
    """Tiles a second of the encoder with random weights."""
    size, device = bench.size, bench.model.device
    encoder = random_encoder(size.encoder, str(device))
    network = in_precision(encoder, precision, device)
    drawn = torch.Generator().manual_seed(4)
    tiles = torch.randint(0, 256, (size.tiles, size.tile_px, size.tile_px, 3), generator=drawn, dtype=torch.uint8)
    few = tiles[: FULL_BATCH_GPU if len(tiles) > FULL_BATCH_GPU else 1]
    first, meter = Meter(device), Meter(device)
    with first.running():
        network(few)
    with meter.running():
        for batch in tiles.split(FULL_BATCH_GPU):
            network(batch)
    title = f"tile encoder {size.encoder}, {precision}"
    each = gflop(lambda: encoder(few[:1]))
    return GpuRow(title, len(tiles), meter.seconds, first.seconds, meter.memory, len(tiles) * each / 1e6)


@cache
def random_encoder(name: str, device: str) -> Network:
    """The published encoder `name` with weights that were drawn."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(build(PUBLISHED[name]).state_dict(), path)
        return load_encoder(name, path, device)
