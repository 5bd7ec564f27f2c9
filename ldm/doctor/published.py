"""Weights that others publish: on this disk, to be fetched, or where to put them by hand.

The network is asked once, for all of them at a time, and not for long.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import requests
from huggingface_hub import constants, get_token

from ldm.doctor.finding import Finding, ok, warn

SECONDS = 5.0
"""that the network may take to answer"""
LICENCE = (401, 403)


class Weights(NamedTuple):
    """A published file: what it is for, where it may be on this disk, where it comes from, how to do without a hub."""

    name: str
    here: Path | None
    url: str
    remedy: str


def hub_weights(name: str, repository: str, remedy: str) -> Weights:
    """Weights of a Hugging Face repository, found in the hub's cache when they were fetched before."""
    cached = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"
    files = (path for kind in ("*.safetensors", "*.bin", "*.ckpt") for path in cached.glob(f"*/**/{kind}"))
    return Weights(name, next(files, None), f"{constants.ENDPOINT}/{repository}", remedy)


def published(wanted: list[Weights]) -> Iterator[Finding]:
    """One line for each of `wanted`; what is not there is a warning, since the demo needs none of it."""
    answers = answered([weights.url for weights in wanted if weights.here is None])
    for weights in wanted:
        if weights.here is not None:
            yield ok(f"{weights.name}: {weights.here}")
            continue
        status = answers.get(weights.url)
        if status is None:
            yield warn(f"{weights.name}: not on this disk, and no answer from {weights.url}; {weights.remedy}")
        elif status in LICENCE:
            yield warn(
                f"{weights.name}: accept the licence at {weights.url} and run `hf auth login`, or {weights.remedy}"
            )
        elif status >= 400:
            yield warn(f"{weights.name}: {weights.url} answers {status}; {weights.remedy}")
        else:
            yield ok(f"{weights.name}: not on this disk; {weights.url} gives it")


def answered(urls: list[str]) -> Mapping[str, int]:
    """The HTTP status of each that answers in time. Threads are left behind: looking a name up cannot be stopped."""
    statuses: dict[str, int] = {}
    token = get_token()

    def ask(url: str) -> None:
        hub = url.startswith(constants.ENDPOINT)
        headers = {"authorization": f"Bearer {token}"} if token and hub else {}
        file = f"{url}/resolve/main/config.json" if hub else url
        try:
            statuses[url] = requests.head(file, headers=headers, timeout=SECONDS).status_code
        except requests.RequestException:
            return

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    until = time.monotonic() + SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return dict(statuses)
