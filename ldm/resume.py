"""A joint sampling on disk, so that an interrupted one goes on from its last step.

The file's name holds a digest of everything that the image depends on: the same command finds it, another does not.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ldm.checkpoint import load_weights, save_weights
from ldm.errors import UserError
from ldm.files import sidecar
from ldm.sampling.multiscale import State

SECONDS = 30.0
"""between two saves"""
NOT_CONSTRAINED = -1.0


class StateFile:
    """The states of a sampling, in `folder`, saved now and then."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """`identity`: all that the image depends on, as JSON values."""
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        self.path = folder / f"unfinished-{digest}.safetensors"
        self._saved = time.monotonic()

    def load(self, device: torch.device) -> dict[str, State]:
        """What was saved, or nothing; a damaged file is nothing."""
        if not self.path.is_file():
            return {}
        try:
            tensors = load_weights(self.path)
        except UserError:
            return {}
        states = {}
        for name in {key.split("/")[0] for key in tensors}:
            z_t = tensors[f"{name}/z_t"].to(device)
            step, error = tensors[f"{name}/step"].tolist()
            states[name] = State(int(step), z_t, z_t, None if error == NOT_CONSTRAINED else error)
        return states

    def save(self, states: Mapping[str, State], *, now: bool = False) -> None:
        """Save, if `now` or when the last time is long ago. UserError when the disk refuses."""
        if not now and time.monotonic() - self._saved < SECONDS:
            return
        tensors = {}
        for name, state in states.items():
            tensors[f"{name}/z_t"] = state.z_t
            error = NOT_CONSTRAINED if state.error is None else state.error
            tensors[f"{name}/step"] = torch.tensor([state.step, error], dtype=torch.float64)
        save_weights(self.path, tensors)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """The image is there: its states are not needed any more."""
        for path in (self.path, sidecar(self.path)):
            path.unlink(missing_ok=True)
