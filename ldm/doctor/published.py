"""Published weights of others: whether they are on this disk or can be downloaded, else where to put them.

The hub is queried through its own client, for all of them in parallel, with a short timeout.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants

from ldm.doctor.finding import Finding, ok, warn
from ldm.errors import UserError
from ldm.support.hub_files import SECONDS, Repository, UnreachableError, cached, check_access, explained


class HubWeights(NamedTuple):
    """Weights in a repository on the hub."""

    name: str
    repository: str
    files: tuple[str, ...]
    """names of weights files; the first is requested"""
    otherwise: str
    """remedy without the hub"""


def published(wanted: list[HubWeights]) -> Iterator[Finding]:
    """One line for each of `wanted`, one for all that a hub without an answer left unknown.

    What is not there is a warning, since the demo needs none of it.
    """
    here = {weights.name: cached(Repository(weights.repository), weights.files) for weights in wanted}
    refused = refusals([weights for weights in wanted if here[weights.name] is None])
    unreachable = [weights for weights in wanted if isinstance(refused.get(weights.name), UnreachableError)]
    for weights in wanted:
        if here[weights.name] is not None:
            yield ok(f"{weights.name}: {here[weights.name]}")
        elif weights.name not in refused:
            yield ok(f"{weights.name}: not on this disk; {Repository(weights.repository).page} gives it")
        elif weights not in unreachable or len(unreachable) == 1:
            yield warn(f"{refused[weights.name]} (not on this disk)")
    if len(unreachable) > 1:
        names, ways = ([getattr(weights, key) for weights in unreachable] for key in ("name", "otherwise"))
        yield warn(
            f"hub: {constants.ENDPOINT} cannot be asked for what is not on this disk: {', '.join(names)}; check the "
            f"network (and HF_HUB_OFFLINE), or {', or '.join(dict.fromkeys(ways))}"
        )


def elsewhere(name: str, file: Path | None, page: str, remedy: str) -> Finding:
    """Weights that are not on the hub: the path `file` where they are expected, the `page` to get them from."""
    if file is not None and file.is_file():
        return ok(f"{name}: {file}")
    return warn(f"{name}: not on this disk; it is at {page}; {remedy}")


def refusals(wanted: list[HubWeights]) -> dict[str, UserError]:
    """Reasons for which the hub refuses weights, by name; available ones are absent.

    Threads may outlive the call: a DNS lookup cannot be interrupted.
    """
    page = {weights.name: Repository(weights.repository).page for weights in wanted}
    told: dict[str, UserError] = {
        weights.name: UnreachableError(f"{weights.name}: no answer from {page[weights.name]}; {weights.otherwise}")
        for weights in wanted
    }

    def ask(weights: HubWeights) -> None:
        repository = Repository(weights.repository)
        try:
            with explained(weights.name, repository, weights.otherwise):
                check_access(repository, weights.files)
            told.pop(weights.name)
        except UserError as error:
            told[weights.name] = error

    threads = [threading.Thread(target=ask, args=(weights,), daemon=True) for weights in wanted]
    until = time.monotonic() + 1.2 * SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return dict(told)
