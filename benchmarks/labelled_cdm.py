"""A CDM that learns labels of slides in a few steps, from one that knows none.

Shapes: w channels of a context, b contexts in a batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ldm.conditioning_model import ConditioningModel
from ldm.config.objects import build
from ldm.config.training_config import put
from ldm.diffusion.schedule import add_noise, at
from ldm.errors import UserError
from ldm.networks.dit import DiT
from ldm.networks.weights_id import weights_id
from ldm.training.cdm import DROPPED

LR, LABEL_LR, BATCH = 5e-4, 1e-2, 16
"""of training the CDM further; the embeddings of labels are new"""


def with_labels(cdm: ConditioningModel, names: Sequence[str]) -> ConditioningModel:
    """A copy of a CDM that is conditioned on labels too, which it does not know yet."""
    if cdm.config is None:
        raise UserError("cdm: was not loaded, so there is no config to build it from; use ConditioningModel.load")
    config = cdm.config.copy()
    config.model.cdm.labels = len(names)
    put(config, label_names=list(names))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(config.model.cdm, "model.cdm", kind=DiT)
    network.load_state_dict(network.state_dict() | cdm.network.state_dict())
    return ConditioningModel(network, cdm.alpha_bar, "", cdm.config_id, cdm.contexts_id, config, tuple(names))


def train_further(cdm: ConditioningModel, x_0: Tensor, labels: Tensor, scale: int, steps: int) -> None:
    """Train a labelled CDM on contexts x_0 (m, 65, w) of one scale with labels (m,), by the mean squared
    error alone."""
    generator = torch.Generator().manual_seed(0)
    network, none = cdm.network.train(), len(cdm.labels)
    new = [weight for name, weight in network.named_parameters() if name.startswith("label_embedder")]
    old = [weight for name, weight in network.named_parameters() if not name.startswith("label_embedder")]
    optimizer = torch.optim.AdamW([{"params": new}, {"params": old}], LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [LABEL_LR, LR], total_steps=max(2, steps))
    for _ in tqdm(range(steps), desc="CDM", unit="step"):
        rows = torch.randint(len(x_0), (BATCH,), generator=generator)
        t = torch.randint(len(cdm.alpha_bar), (BATCH,), generator=generator)
        dropped = torch.rand(BATCH, generator=generator) < DROPPED
        eps = torch.randn(BATCH, *x_0.shape[1:], generator=generator)
        x_t = add_noise(x_0[rows], eps, at(cdm.alpha_bar, t, eps))
        label = labels[rows].masked_fill(dropped, none)
        loss = F.mse_loss(network(x_t, t, torch.full_like(t, scale), label)[0], x_0[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval()
    cdm.id = weights_id(network)
