"""Identities of cached results: samples, features, states and scores are reused only if everything they depend on is
the same.

    identity = Identity("samples", weights=model.weights, inputs={"slide": content(path)}, settings={"steps": 20})
    folder = out / f"samples-{identity.digest}"         # the same command finds it, another one does not
    identity.differences(kept)                          # ["settings.steps: 20, kept 30"]

A cached result is stored with its identity. A result of another identity is computed again, or refused with a message
that names what differs.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm.support.files import sha256

VERSION = 2
"""version of the code: increase it when the same inputs give other results, to invalidate all cached ones"""
DIGITS = 16
"""hex digits of a digest"""
_hashed: dict[tuple[object, ...], str] = {}


@dataclass(frozen=True, eq=False)
class Identity:
    """Everything that a result depends on; values are what JSON can hold."""

    kind: str
    """kind of result: "samples", "features", ..."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """ids of the networks' weights and configs, which include hashes"""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """hashes of input files, from `content`"""
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION

    @property
    def text(self) -> str:
        """Canonical JSON: equal for equal identities."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """Digest of `text`, for the name of a file or folder."""
        return digest_of(self.text)

    def __eq__(self, other: object) -> bool:
        """Whether the JSON is equal: there a tuple is a list, as in what was kept."""
        return isinstance(other, Identity) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @classmethod
    def parse(cls, text: str) -> "Identity":
        """The inverse of `text`. ValueError for anything else."""
        found = json.loads(text)
        if not isinstance(found, dict) or found.keys() != cls.__dataclass_fields__.keys():
            raise ValueError("no identity")
        return cls(**found)

    def differences(self, kept: "Identity") -> list[str]:
        """One "key: VALUE, kept VALUE" for each key that differs; empty for equal identities."""
        ours, theirs = (dict(_flat("", json.loads(each.text))) for each in (self, kept))
        keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        return [f"{key}: {_short(ours.get(key))}, kept {_short(theirs.get(key))}" for key in keys]


def _flat(prefix: str, value: object) -> Iterator[tuple[str, object]]:
    if not isinstance(value, dict):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from _flat(f"{prefix}.{key}" if prefix else key, inner)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def content_of(pixels: NDArray[Any]) -> str:
    """Digest of an array, its shape and its dtype."""
    return digest_of(f"{pixels.dtype} {pixels.shape} {hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()}")


def content(path: str | Path) -> str:
    """The first digits of the sha256 of a file; computed once per process unless the file changes."""
    path = Path(path).resolve()
    stat = path.stat()
    key = (path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    if key not in _hashed:
        _hashed[key] = sha256(path)[:DIGITS]
    return _hashed[key]
