"""Convert DINOv2 weights from the names of the package transformers (Phikon-v2, Hibou, Midnight) to timm's.

transformers has separate matrices for query, key and value, timm one. With registers, transformers adds a position
embedding to the class token when it runs; timm stores their sum as the class token.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

FIRST = "embeddings.patch_embeddings.projection.weight"
NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "layernorm.": "norm.",
}
IN_LAYER = {
    "attention.output.dense.": "attn.proj.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in.": "mlp.fc1.",
    "mlp.weights_out.": "mlp.fc2.",
}
LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
PART = re.compile(r"attention\.attention\.(query|key|value)\.(weight|bias)")
UNUSED = "embeddings.mask_token"


def is_transformers(state: Mapping[str, Tensor]) -> bool:
    return FIRST in state


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under timm's names; unknown tensors keep their names."""
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name == UNUSED:  # token of masked patches, used in training only
            continue
        layer = LAYER.fullmatch(name)
        if layer and (part := PART.fullmatch(layer[2])):
            parts.setdefault(f"blocks.{layer[1]}.attn.qkv.{part[2]}", {})[part[1]] = value
        elif layer:
            found[f"blocks.{layer[1]}.{_renamed(layer[2], IN_LAYER)}"] = value
        else:
            found[_renamed(name, NAMES)] = value
    for name, three in parts.items():
        found[name] = torch.cat([three[part] for part in ("query", "key", "value") if part in three])
    if "reg_token" in found and "pos_embed" in found and "cls_token" in found:
        found["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
        found["pos_embed"] = found["pos_embed"][:, 1:]
    return found


def _renamed(name: str, names: Mapping[str, str]) -> str:
    old = next((old for old in names if name.startswith(old)), "")
    return names.get(old, "") + name.removeprefix(old)
