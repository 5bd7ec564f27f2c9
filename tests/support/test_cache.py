"""Identities: differences are found and named; a changed file is hashed again, also with an unchanged time."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ldm.support.cache import VERSION, Identity, content

IDENTITY = Identity("samples", {"model": "m-1"}, {"slide": "0123"}, {"rule": {"inner": 1}, "scales": ["20x", "5x"]})


def test_an_identity_comes_back_from_its_text() -> None:
    assert Identity.parse(IDENTITY.text) == IDENTITY
    for text in ("[]", "{}", '{"kind": "samples"}', "half"):
        with pytest.raises(ValueError, match=r".*"):
            Identity.parse(text)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (replace(IDENTITY, kind="features"), 'kind: "samples", kept "features"'),
        (replace(IDENTITY, weights={"model": "m-2"}), 'weights.model: "m-1", kept "m-2"'),
        (replace(IDENTITY, weights={**IDENTITY.weights, "cdm": "c-1"}), 'weights.cdm: null, kept "c-1"'),
        (replace(IDENTITY, inputs={"slide": "4567"}), 'inputs.slide: "0123", kept "4567"'),
        (replace(IDENTITY, settings={**IDENTITY.settings, "rule": {"inner": 2}}), "settings.rule.inner: 1, kept 2"),
        (replace(IDENTITY, version=0), f"version: {VERSION}, kept 0"),
    ],
)
def test_each_difference_changes_the_digest_and_is_named(other: Identity, told: str) -> None:
    assert other.digest != IDENTITY.digest
    assert IDENTITY.differences(other) == [told]


def test_order_and_kind_of_container_do_not_matter() -> None:
    same = replace(IDENTITY, settings={"scales": ("20x", "5x"), "rule": {"inner": 1}})
    assert same == IDENTITY
    assert hash(same) == hash(IDENTITY)
    assert same.digest == IDENTITY.digest
    assert IDENTITY.differences(same) == []


def test_content_follows_the_bytes_of_a_path(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"first")
    stat, first = path.stat(), content(path)
    assert content(path) == first
    path.write_bytes(b"other")  # as long as the first one was, and given its time
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert content(path) != first
    path.write_bytes(b"first")
    assert content(path) == first
