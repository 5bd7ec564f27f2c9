"""Networks give bit-equal answers independent of other requests."""

import os

import numpy as np
import pytest
import torch

from benchmarks.robustness import prepared_cohort
from data_prep.preparation_config import PrepareConfig
from data_prep.workers.embedding import AUTOENCODER, ENCODER, Channel, ConnectionClosed, InOrder, Question, Remote
from data_prep.workers.networks import LocalNetworks
from data_prep.workers.reader_processes import CONTEXT


@pytest.fixture
def config(tmp_path) -> PrepareConfig:
    return prepared_cohort.make(tmp_path, 1)


@pytest.mark.parametrize("network", [ENCODER, AUTOENCODER])
def test_an_answer_depends_on_the_tile_alone(config, network):
    tiles = np.random.default_rng(0).integers(0, 256, (21, 64, 64, 3), dtype=np.uint8)
    patient = LocalNetworks.load(prepared_cohort.variant(config, batch_size=1000), torch.device("cpu"))
    hasty = LocalNetworks.load(prepared_cohort.variant(config, batch_size=1), torch.device("cpu"))
    answers = [patient.ask(network, part) for part in np.split(tiles, [1, 4, 17])]
    together = np.concatenate([answer() for answer in answers])
    alone = np.concatenate([hasty.ask(network, tile[None])() for tile in tiles])
    np.testing.assert_array_equal(together, alone)
    assert together.dtype == np.float32
    assert (np.abs(together).reshape(21, -1).max(1) > 0).all()


@pytest.mark.parametrize("network", [ENCODER, AUTOENCODER])
def test_half_precision_changes_answers_by_no_more_than_is_said(config, network):
    tiles = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    cpu = torch.device("cpu")
    exact, auto, half = (
        LocalNetworks.load(prepared_cohort.variant(config, precision=name), cpu).ask(network, tiles)()
        for name in ("fp32", "auto", "bf16")
    )
    np.testing.assert_array_equal(exact, auto)
    assert half.dtype == np.float32
    assert 0 < np.linalg.norm(half - exact) / np.linalg.norm(exact) < 1e-2


def test_answers_are_used_in_the_order_of_asking_and_bounded():
    used: list[int] = []
    work = InOrder(limit=10)
    for number in range(6):
        work.later(4, lambda number=number: used.append(number))
        assert number + 1 - len(used) <= 2
    work.finish()
    assert used == list(range(6))


def test_a_remote_network_is_asked_over_a_pipe():
    ours, theirs = (Channel(end) for end in CONTEXT.Pipe())
    remote = Remote(theirs, None)
    tiles = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    first, second = remote.ask(ENCODER, tiles), remote.ask(ENCODER, tiles + 1)
    for number in (1, 0):  # answered in another order
        question, asked = ours.receive()
        assert question == Question(1 - number, ENCODER)
        np.testing.assert_array_equal(asked, tiles + 1 - number)
    ours.send(1, np.float32([[1]]))
    ours.send(0, np.float32([[0]]))
    assert (second(), first()) == (1, 0)
    remote.ask(ENCODER, tiles)
    ours.close()
    with pytest.raises(ConnectionClosed):
        remote.forget()


def test_the_reader_of_a_dead_parent_ends(tmp_path):
    pipe, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_hold, args=(theirs,))
    process.start()
    theirs.close()
    assert pipe.recv() == process.pid
    pipe.close()
    process.join(30)
    assert process.exitcode == 3


def _hold(pipe) -> None:
    pipe.send(os.getpid())
    try:
        Channel(pipe).receive()
    except ConnectionClosed:
        os._exit(3)
