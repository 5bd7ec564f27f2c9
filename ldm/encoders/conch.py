"""CONCH (Lu et al. 2024, Nature Medicine), which is not in timm: its authors' package builds it."""

import pickle
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ldm.checkpoint import check_kinds, load_weights
from ldm.errors import UserError
from ldm.support.files import sha256
from ldm.support.hub_files import Repository, fetch

CONCH_HUB = "MahmoodLab/conch"
CONCH_FILE = "pytorch_model.bin"


class ConchEncoder:
    """Image embeddings of CONCH before the projection to text."""

    width = 512
    preprocessing = "that of the package conch"

    def __init__(self, weights: str | Path | None, device: str) -> None:
        try:
            from conch.open_clip_custom import create_model_from_pretrained
        except ImportError as error:
            remedy = (
                "pip install git+https://github.com/Mahmoodlab/CONCH.git, accept the licence of the weights at "
                f"{Repository(CONCH_HUB).page} and run `hf auth login`"
            )
            raise UserError(f"encoder.name: conch: its authors' package is missing ({error}); {remedy}") from error
        local = "set encoder.weights to a local file"
        path = weights or fetch(Repository(CONCH_HUB), CONCH_FILE, "encoder.name: conch", local)
        tensors = {name.removeprefix("module."): value for name, value in load_weights(path).items()}
        try:
            network, self.transform = create_model_from_pretrained("conch_ViT-B-16", str(path))
        except (KeyError, RuntimeError, pickle.UnpicklingError) as error:
            raise _not_conch(path) from error
        own = {f"visual.{name}": value for name, value in network.visual.state_dict().items()}
        if (
            not {name for name in own if "caption" not in name} <= tensors.keys()
        ):  # the package leaves missing tensors random; only the captioning parts may be missing
            raise _not_conch(path)
        check_kinds(own, tensors, f"encoder.weights: {path}")
        self.network = network.eval().requires_grad_(False).to(device)
        self.device = device
        self.id = "conch" if weights is None else f"conch-{sha256(weights)[:12]}"

    @torch.inference_mode()
    def __call__(self, tiles: Tensor) -> Tensor:
        x = torch.stack([self.transform(Image.fromarray(tile.numpy())) for tile in tiles.cpu()])
        return self.network.encode_image(x.to(self.device), proj_contrast=False, normalize=False).float().cpu()


def _not_conch(path: str | Path) -> UserError:
    file = f"{CONCH_FILE} of https://huggingface.co/{CONCH_HUB}"
    return UserError(f"encoder.weights: {path} is another network's; expected {file}")
