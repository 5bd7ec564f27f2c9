"""The networks of a preparation run, in the one process of each device that owns them.

They are always run on full batches of one shape, the last one padded with black tiles: kernels are chosen by shape and
round differently, so otherwise a tile's result would depend on the number of pending tiles.

Shapes: n tiles; p tile_px; d channels of an embedding; h, w of a latent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from data_prep.imported_embeddings import ImportedEncoder, imported_encoder
from data_prep.preparation_config import PrepareConfig
from data_prep.workers.embedding import AUTOENCODER, ENCODER, Answer, NetworksIdentity, Tiles
from ldm.encoders.tile_encoders import TileEncoder, known_width, load_encoder
from ldm.pipeline import load_autoencoder
from ldm.support.precision import DTYPES, choose

FULL_BATCH = {"cpu": 8}
FULL_BATCH_GPU = 32

Network = Callable[[Tensor], Tensor]
"""uint8 (n, p, p, 3) -> float32 (n, ...) on the CPU"""


@dataclass
class Request:
    """Tiles, and the network's output once it has run."""

    network: str
    tiles: Tiles
    answer: NDArray[np.float32] | None = None


class LocalNetworks:
    """Networks of this process. They run when `batch_size` tiles are pending, or an answer is waited for."""

    def __init__(
        self, identity: NetworksIdentity, networks: dict[str, Network], device: torch.device, batch_size: int
    ) -> None:
        self.identity, self.batch_size = identity, batch_size
        self._networks = networks
        self._full = FULL_BATCH.get(device.type, FULL_BATCH_GPU)
        self._waiting: list[Request] = []
        self.embedded = 0
        """base tiles so far"""

    @classmethod
    def load(cls, config: PrepareConfig, device: torch.device) -> "LocalNetworks":
        """Load the networks. UserError when weights are missing."""
        asked, autoencoder_id, latents_id = config.encoder, None, None
        networks: dict[str, Network] = {}
        if asked.embeddings:
            encoder: TileEncoder | ImportedEncoder = imported_encoder(
                asked.name, asked.embeddings, known_width(asked.name)
            )
        else:
            encoder = load_encoder(asked.name, asked.weights, str(device))
            networks[ENCODER] = in_precision(encoder, config.precision, device)
        if config.autoencoder is not None:
            autoencoder, autoencoder_id = load_autoencoder(config.autoencoder)
            latents_id = autoencoder.latents_id()
            autoencoder.eval().requires_grad_(False).to(device)
            encode = partial(latents_of, encode=autoencoder.encode, device=device)
            networks[AUTOENCODER] = in_precision(encode, config.precision, device)
        return cls(
            NetworksIdentity(encoder.id, encoder.width, autoencoder_id, latents_id), networks, device, config.batch_size
        )

    def ask(self, network: str, tiles: Tiles) -> Answer:
        request = Request(network, tiles)
        self._waiting.append(request)

        def answer() -> NDArray[np.float32]:
            if request.answer is None:
                self._run_waiting()
            assert request.answer is not None
            return request.answer

        if sum(len(waiting.tiles) for waiting in self._waiting) >= self.batch_size:
            self._run_waiting()
        return answer

    def forget(self) -> None:
        self._waiting.clear()

    def _run_waiting(self) -> None:
        requests, self._waiting = self._waiting, []
        self.run(requests)

    def run(self, requests: Sequence[Request]) -> None:
        """Answer `requests`, batched by network."""
        for name, network in self._networks.items():
            asked = [request for request in requests if request.network == name]
            if not asked:
                continue
            counts = [len(request.tiles) for request in asked]
            values = self._in_full_batches(network, np.concatenate([request.tiles for request in asked]))
            for request, part in zip(asked, np.split(values, np.cumsum(counts)[:-1]), strict=True):
                request.answer = part
            self.embedded += sum(counts) if name == ENCODER else 0

    def _in_full_batches(self, network: Network, tiles: Tiles) -> NDArray[np.float32]:
        missing = -len(tiles) % self._full
        padded = np.concatenate([tiles, np.zeros((missing, *tiles.shape[1:]), np.uint8)])
        values = [network(batch) for batch in torch.from_numpy(padded).split(self._full)]
        return torch.cat(values)[: len(tiles)].numpy()


def in_precision(network: Network, precision: str, device: torch.device) -> Network:
    """`network` with layers in `precision`; auto is fp32 on CPUs, so that cohorts of different laptops agree."""
    precision = "fp32" if precision == "auto" and device.type == "cpu" else choose(precision, device)
    if precision == "fp32":
        return network
    dtype = getattr(torch, DTYPES[precision])

    def called(tiles: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype):
            return network(tiles)

    return called


@torch.inference_mode()
def latents_of(tiles: Tensor, encode: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
    """uint8 (n, p, p, 3) -> (n, 3, h, w), unquantised."""
    x = tiles.to(device).float() / 127.5 - 1
    return encode(rearrange(x, "n h w c -> n c h w")).float().cpu()
