"""Id of networks' weights, independent of the file, and the same in single and half precision.

So a bundled model, which is stored in half precision, has the id of the run that it was made from.
"""

import hashlib

from torch import nn


def weights_id(*networks: nn.Module) -> str:
    """12 hex digits of the sha256 of all weights in half precision."""
    digest = hashlib.sha256()
    for network in networks:
        for name, weight in network.state_dict().items():
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            digest.update(weight.cpu().half().numpy().tobytes())
    return digest.hexdigest()[:12]
