"""Frozen tile encoders by name: uint8 tiles (n, h, w, 3) -> embeddings (n, d), one per base tile (paper, section 3.1).

| name | what it is | module |
|---|---|---|
| demo, satellite | random features, in the package | ldm/encoders/demo_encoder.py |
| colours | histograms of colours, no weights | ldm/encoders/colours.py |
| uni, uni2-h, virchow2, h-optimus-0 ... dinov3-sat, clip, hipt | published | ldm/encoders/table.py |
| conch | published, needs its authors' package | ldm/encoders/conch.py |
| any timm name, hf-hub:ORG/NAME | pooled features | ldm/encoders/timm_encoder.py |
"""

import re
from pathlib import Path
from typing import Any, Protocol

import timm
import torch
from torch import Tensor

from ldm.encoders.colours import ColourEncoder
from ldm.encoders.conch import ConchEncoder
from ldm.encoders.demo_encoder import FITTED, DemoEncoder
from ldm.encoders.table import PUBLISHED
from ldm.encoders.timm_encoder import HF_HUB, TimmEncoder
from ldm.errors import UserError

OURS = dict.fromkeys(FITTED, DemoEncoder.width) | {"colours": ColourEncoder.width, "conch": ConchEncoder.width}
"""widths of the encoders that timm does not build"""


class TileEncoder(Protocol):
    """Frozen weights: the same tile gives the same embedding."""

    id: str
    """id of the weights; stored with every embedding"""
    width: int
    """channels d of an embedding"""
    preprocessing: str
    """description of the steps from 8-bit pixels to the network's input"""

    def __call__(self, tiles: Tensor, /) -> Tensor:
        """uint8 (n, h, w, 3) -> float32 (n, d), on the CPU."""


def load_encoder(name: str, weights: str | Path | None = None, device: str = "cpu") -> TileEncoder:
    """The encoder `name`: one of OURS or PUBLISHED, any timm model, or hf-hub:ORG/NAME; `weights` is a local file.

    `name` may be an id as stored in slides and models, which includes the weights: NAME-<12 digits of their sha256>.
    Raises UserError for an unknown name, and for weights that are missing, gated or not those of the id.
    """
    if asked := re.fullmatch(r"(.+)-[0-9a-f]{12}", name):
        encoder = load_encoder(asked[1], weights, device)
        if encoder.id != name:
            raise UserError(f"encoder: {encoder.id} is here, expected {name}; give the file of its weights")
        return encoder
    if name in FITTED:
        return DemoEncoder.load(weights or FITTED[name], device, name)
    if name == "colours":
        return ColourEncoder()
    if name == "conch":
        return ConchEncoder(weights, device)
    if name not in PUBLISHED and not name.startswith(HF_HUB) and not timm.is_model(name):
        known = ", ".join([*OURS, *PUBLISHED])
        raise UserError(f"encoder.name: {name} is unknown; expected {known}, a timm model name or hf-hub:ORG/NAME")
    return TimmEncoder(name, weights, device)


def known_width(name: str) -> int | None:
    """Channels of the encoder `name`, without its weights; None for one that is not known here."""
    if name in OURS:
        return OURS[name]
    if name in PUBLISHED:
        return PUBLISHED[name].width
    if name.startswith(HF_HUB) or not timm.is_model(name):
        return None
    with torch.device("meta"):
        network: Any = timm.create_model(name, num_classes=0)
    return int(network.num_features)
