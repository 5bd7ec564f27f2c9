"""States of an interrupted sampling on disk, from which the same command continues.

The file's name contains the digest of the sampling's identity, and the file the identity itself: the same command finds
it, another one starts from the beginning and reports what differs.

    unfinished-<digest>.safetensors                 the canvases so far
    unfinished-<digest>.<name>.safetensors          what is computed before, for example inferred conditions
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from ldm.checkpoint import load_metadata, load_weights, save_weights
from ldm.errors import UserError
from ldm.multiscale.canvas import State
from ldm.multiscale.joint import Joint
from ldm.multiscale.time_left import Clock, duration
from ldm.support.cache import Identity
from ldm.support.files import sidecar

Rows = TypeVar("Rows")
SECONDS = 30.0
"""between two saves"""
NOT_CONSTRAINED = -1.0
PREFIX = "unfinished-"
KEY = "identity"
"""key in a file's metadata"""


class StateFile:
    """The states of a sampling, saved in `folder` at intervals."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        """`identity`: all that the image depends on."""
        self.identity, self._folder = identity, folder
        self._stem = f"{PREFIX}{identity.digest}"
        self.path = folder / f"{self._stem}.safetensors"
        self._saved = time.monotonic()
        self.step = 0
        """of all canvases together, that the file holds"""

    def load(self, device: torch.device) -> dict[str, State]:
        """The saved states; empty where there are none, or they are damaged or of another sampling: see `notes`."""
        tensors = self._read(self.path)
        states = {}
        for name in {key.split("/")[0] for key in tensors}:
            z_t = tensors[f"{name}/z_t"].to(device)
            step, error = tensors[f"{name}/step"].tolist()
            states[name] = State(int(step), z_t, z_t, None if error == NOT_CONSTRAINED else error)
        self.step = sum(state.step for state in states.values())
        return states

    def notes(self) -> list[str]:
        """A message for each unfinished sampling in the folder that is not continued, with the reason."""
        told = []
        for path in sorted(self._folder.glob(f"{PREFIX}*.safetensors")):
            if path == self.path:
                if not self._read(path):
                    told.append(f"{path.name} is damaged: starting from the beginning")
            elif path.stem.count(".") == 0 and (kept := identity_of(path)) is not None:
                different = "; ".join(self.identity.differences(kept))
                told.append(
                    f"{path.name} is of another sampling ({different}): kept; this one starts from the beginning"
                )
        return told

    def save(self, states: Mapping[str, State], *, now: bool = False) -> None:
        """Save if `now`, or if the last save is long ago. UserError when the file cannot be written."""
        if not now and time.monotonic() - self._saved < SECONDS:
            return
        tensors = {}
        for name, state in states.items():
            tensors[f"{name}/z_t"] = state.z_t
            error = NOT_CONSTRAINED if state.error is None else state.error
            tensors[f"{name}/step"] = torch.tensor([state.step, error], dtype=torch.float64)
        save_weights(self.path, tensors, {KEY: self.identity.text})
        self._saved, self.step = time.monotonic(), sum(state.step for state in states.values())

    def kept(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The result of `make`, which is saved; or the one that an interrupted command saved. On the CPU."""
        path = self._folder / f"{self._stem}.{name}.safetensors"
        found = self._read(path).get(name)
        if found is None:
            found = make().cpu()
            save_weights(path, {name: found}, {KEY: self.identity.text})
        return found

    def remove(self) -> None:
        """Delete the states, once the image is written."""
        for path in self._folder.glob(f"{self._stem}.*safetensors"):
            for each in (path, sidecar(path)):
                each.unlink(missing_ok=True)

    def _read(self, path: Path) -> dict[str, Tensor]:
        """The tensors of an undamaged file of this identity, or an empty dict."""
        if identity_of(path) != self.identity:
            return {}
        with suppress(UserError):
            return load_weights(path)
        return {}


def identity_of(path: Path) -> Identity | None:
    """Identity of the sampling in a file; None when the file is missing, damaged or of an earlier version."""
    if not path.is_file():
        return None
    try:
        return Identity.parse(load_metadata(path)[KEY])
    except (UserError, OSError, KeyError, ValueError, TypeError):
        return None


def sample(
    joint: Joint, file: StateFile, label: str, first: bool = True, alone: bool = True
) -> dict[str, list[float | None]]:
    """Run to the end from the state in `file`, saving at intervals; returns the constraint error after every step.

    The `first` process saves, shows a progress bar with `label`, and prints after its second step how long the others
    will take. UserError when memory is short even for one window at a time, or where several processes share the
    windows (not `alone`).
    """
    joint.states |= file.load(joint.model.device)
    errors: dict[str, list[float | None]] = {}
    clock = Clock(joint)
    total = clock.windows
    with tqdm(total=total, desc=label, unit="window", disable=not first) as bar:
        while joint.done < joint.steps:
            try:
                for canvas, state in joint.run():
                    errors.setdefault(canvas, []).append(state.error)
                    clock.tick()
                    if first and clock.steps == 2 and clock.windows:
                        bar.write(f"{label}: about {duration(clock.left())} left, for {clock.windows:,} windows")
                    bar.update(total - clock.windows - bar.n)
                    bar.set_postfix_str(canvas if state.error is None else f"{canvas} |Ax-y| {state.error:.3f}")
                    if first and state.whole:
                        file.save(joint.states)
            except KeyboardInterrupt as stop:
                if first and all(state.whole for state in joint.states.values()):
                    file.save(joint.states, now=True)
                remedy = f"continues from step {file.step}" if file.step else "starts again"
                told = f"after step {joint.done} of {joint.steps}; the same command {remedy}"
                raise KeyboardInterrupt(told) from stop
            except torch.OutOfMemoryError as error:
                if joint.batch_size == 1 or not alone:
                    raise UserError(f"--batch-size: memory is short at {joint.batch_size}; choose fewer") from error
                joint.batch_size //= 2
                bar.write(f"memory is short: going on with --batch-size {joint.batch_size}")
    if first and errors:  # decoding can be stopped, too
        file.save(joint.states, now=True)
    return errors


def shown(bands: Iterable[Rows], height: int, label: str, rows_of: Callable[[Rows], int]) -> Iterator[Rows]:
    """Pass on `bands` of an image of `height` rows under a progress bar; `rows_of` gives the rows of a band."""
    with tqdm(total=height, desc=label, unit="row") as bar:
        for band in bands:
            yield band
            bar.update(min(rows_of(band), height - bar.n))
