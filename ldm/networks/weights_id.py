"""What names the weights of networks, whatever file they are in: the same in single and in half precision.

So a bundle, which keeps halves, has the name of the run that it was made from.
"""

import hashlib

from torch import nn


def weights_id(*networks: nn.Module) -> str:
    """12 hex digits: of all weights, in half precision."""
    digest = hashlib.sha256()
    for network in networks:
        for name, weight in network.state_dict().items():
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            digest.update(weight.cpu().half().numpy().tobytes())
    return digest.hexdigest()[:12]
