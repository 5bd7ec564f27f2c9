"""Feature extractors, and the features of many images, computed by several processes.

An extractor is any frozen network from uint8 images to vectors: the encoders of `ldm.encoders.tile_encoders` (UNI,
CONCH, DINOv2, CLIP, the demo's, any timm model), and Inception, defined here.

Shapes: n images, b images of a batch, H, W pixels, d channels.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from ldm.checkpoint import check_kinds, load_weights
from ldm.encoders.tile_encoders import TileEncoder
from ldm.errors import UserError
from ldm.evaluation.metrics.frechet import Moments, Statistics
from ldm.support.files import sha256
from ldm.support.processes import ALONE, Processes

KEPT = 10_000
"""number of features kept of a set, for computations that are quadratic in n"""
CHUNK = 256
"""images embedded between synchronisations; the sums of a set do not depend on the number of processes"""
Pixels = NDArray[np.uint8]
Loader = Callable[[], Pixels]
"""loads one image (H, W, 3)"""


Extractor = TileEncoder
"""frozen weights: the same image gives the same vector"""


class Inception:
    """The 2048 pooled features of FID: TensorFlow's Inception-v3 of 2015, as torch-fidelity has it.

    Images of any size are resized with antialiasing before (Parmar et al. 2022); the network's own resizing then does
    nothing. UserError when the weights are not at `weights`, or by default in torch's download folder.
    """

    width, size = 2048, 299
    preprocessing = "bicubic, antialiased, to 299x299, 8 bits, / 128 - 1"

    def __init__(self, weights: str | Path | None = None, device: str = "cpu") -> None:
        path = inception_file() if weights is None else Path(weights)
        if not path.is_file():
            raise UserError(
                f"inception: {path} is missing; download {URL_INCEPTION_V3} there or give --weights inception=PATH"
            )
        safe = io.BytesIO()  # torch-fidelity unpickles its input: it gets what was read without running code
        tensors = load_weights(path)
        torch.save(tensors, safe)
        safe.seek(0)
        try:
            network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=safe)
        except RuntimeError as error:
            raise UserError(
                f"inception: {path} is another network's; expected the file of {URL_INCEPTION_V3}"
            ) from error
        check_kinds(network.state_dict(), tensors, f"inception: {path}")
        self.network, self.device = network.to(device), device
        self.id = f"inception-{sha256(path)[:12]}"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        x = rearrange(images.to(self.device), "b h w c -> b c h w").float()
        x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 255)
        return self.network(x.round().to(torch.uint8))[0].float().cpu()  # (b, d)


def inception_file() -> Path:
    """Path of Inception's weights in torch's download folder."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name


@dataclass(frozen=True)
class Described:
    """A set of images in one space: its statistics, and its first features (at most KEPT, d) if known."""

    statistics: Statistics
    features: NDArray[np.float32] | None = None


def describe(
    images: Sequence[Loader], extractor: Extractor, scale: str = "", processes: Processes = ALONE, batch: int = 32
) -> Described:
    """Statistics and features of `images` by `extractor`. UserError for fewer than two images."""
    moments, kept = Moments(extractor.width), [np.zeros((0, extractor.width), np.float32)]
    for chunk in features_of(images, extractor, processes, batch):
        room = KEPT - moments.n
        moments.add(chunk)
        kept.append(chunk[: max(0, room)])
    statistics = moments.statistics(extractor.id, extractor.preprocessing, scale)
    return Described(statistics, np.concatenate(kept))


def features_of(
    images: Sequence[Loader], extractor: Extractor, processes: Processes = ALONE, batch: int = 32
) -> Iterator[NDArray[np.float32]]:
    """Features (up to CHUNK, d) of the images in order, the same in every process. UserError for two sizes in a set."""
    for first in range(0, len(images), CHUNK):
        chunk = images[first : first + CHUNK]
        features = torch.zeros(len(chunk), extractor.width)
        own = list(processes.local_indices(len(chunk)))
        for start in range(0, len(own), batch):
            numbers = own[start : start + batch]
            pixels = [chunk[number]() for number in numbers]
            sizes = {image.shape[:2] for image in pixels}
            if len(sizes) > 1:
                found = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
                raise UserError(f"images: of {found} px in one set; expected one size")
            features[numbers] = extractor(torch.from_numpy(np.stack(pixels)))
        yield processes.all_reduce_sum(features).numpy()
