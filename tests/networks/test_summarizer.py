"""The Summarizer against the published one, and grids of any size."""

import copy

import pytest
import torch
from torch import Tensor

from benchmarks.fixtures.fill import fill_
from ldm.errors import UserError
from ldm.networks.summarizer import CNNSummarizer, Summarizer
from tests.golden.parity import error, golden, noise, published_names
from tests.networks.gradients import without_gradient

PREFIX = "cond_stage_model."
KINDS = [Summarizer, CNNSummarizer]


def grid(side: int) -> Tensor:
    return noise(3000 + side, 64, side, side)


@pytest.fixture(scope="module")
def small() -> Summarizer:
    network = Summarizer(embedding_dim=64, layers=2, mlp=256).eval()
    fill_(network.state_dict(), PREFIX)
    return network


@pytest.mark.parametrize(("file", "scales", "parameters"), [("brca", 8, 38_656_000), ("naip", 4, 38_653_952)])
def test_names_shapes_and_order_are_the_published_ones(file: str, scales: int, parameters: int) -> None:
    with torch.device("meta"):
        network = Summarizer(scales=scales)
    published = {name.removeprefix(PREFIX): s for name, s in published_names(file).items() if name.startswith(PREFIX)}
    assert [(name, list(value.shape)) for name, value in network.state_dict().items()] == list(published.items())
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("side", [1, 2, 4, 8])
@torch.no_grad()
def test_every_grid_at_every_scale_agrees(small: Summarizer, side: int) -> None:
    published = golden("summarizer")
    assert error(small.tokens([grid(side)])[..., ::8], published[f"tokens_{side}x{side}"]) < 1e-5
    context = small([grid(side)] * 8, torch.arange(8))[:, ::8, ::4]
    for scale in range(8):
        assert error(context[scale : scale + 1], published[f"out_{side}x{side}_mag{scale}"]) < 1e-5


@torch.no_grad()
def test_mixed_and_oblong_grids_agree(small: Summarizer) -> None:
    published = golden("summarizer")
    assert error(small([grid(side) for side in (1, 2, 4, 8)], torch.arange(4))[..., ::8], published["mixed"]) < 1e-5
    assert error(small([noise(3024, 64, 2, 4)], torch.tensor([2]))[..., ::8], published["oblong"]) < 1e-5


@pytest.mark.parametrize("rows", range(1, 9))
@torch.no_grad()
def test_any_grid_sits_in_the_middle_row_by_row(small: Summarizer, rows: int) -> None:
    for columns in range(1, 9):
        n = rows * columns
        embedding = noise(rows * 10 + columns, 64, rows, columns)
        tokens = small.tokens([embedding])[0]
        real = torch.arange(32 - n // 2, 32 - n // 2 + n)
        pad = torch.ones(64, dtype=torch.bool)
        pad[real] = False
        assert (tokens[pad] == small.pad_token[0]).all()
        assert error(tokens[real], small.dim_reduce(embedding.flatten(1).T)) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_batch_is_its_samples_and_a_tensor_is_a_list(kind: type[Summarizer | CNNSummarizer]) -> None:
    network = (
        kind(embedding_dim=6, width=32, layers=2, heads=4) if kind is Summarizer else kind(embedding_dim=6, width=32)
    )
    network.eval()
    grids, scale = (
        [noise(1, 6, 3, 5), noise(2, 6, 8, 8), noise(3, 6, 1, 1), noise(4, 6, 7, 2)],
        torch.tensor([0, 7, 3, 3]),
    )
    context = network(grids, scale)
    assert context.shape == (4, 65, 32)
    for i in range(4):
        assert error(network(grids[i : i + 1], scale[i : i + 1]), context[i : i + 1]) < 1e-5
    same = [noise(i, 6, 4, 4) for i in range(4)]
    assert torch.equal(network(torch.stack(same), scale), network(same, scale))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_scale_and_place_matter(kind: type[Summarizer | CNNSummarizer]) -> None:
    torch.manual_seed(0)
    network, embedding, scale = kind(embedding_dim=6, width=32).eval(), noise(1, 6, 4, 4), torch.tensor([2])
    context = network([embedding], scale)
    assert error(network([embedding], torch.tensor([3])), context) > 1e-3
    assert error(network([embedding.mT], scale), context) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind: type[Summarizer | CNNSummarizer]) -> None:
    network = kind(embedding_dim=6, width=32)
    fill_(network.state_dict())
    context = network([noise(1, 6, 2, 2), noise(2, 6, 8, 8)], torch.tensor([1, 4]))
    assert without_gradient(network, context) == []


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_grids_are_told_in_one_line(kind: type[Summarizer | CNNSummarizer]) -> None:
    network = kind(embedding_dim=6, width=32)
    with pytest.raises(UserError, match="grid of 9x8, at most 8x8"):
        network([torch.zeros(6, 9, 8)], torch.tensor([0]))
    with pytest.raises(UserError, match="5 channels, the model takes 6"):
        network([torch.zeros(6, 2, 2), torch.zeros(5, 2, 2)], torch.tensor([0, 1]))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (4, 4), (3, 5), (8, 8)])
def test_a_stretched_grid_keeps_every_token_at_its_place(rows: int, columns: int) -> None:
    network = Summarizer(embedding_dim=6, scales=2, width=16, layers=1, heads=2, mlp=8, stretch=True)
    grid = noise(1, 6, rows, columns)
    places = network.tokens([grid])[0].unflatten(0, (8, 8))  # (8, 8, width)
    for row in range(8):
        for column in range(8):
            token = network.dim_reduce(grid[:, row * rows // 8, column * columns // 8])
            assert torch.allclose(places[row, column], token, atol=1e-6)
    context = network([grid], torch.tensor([1]))
    assert without_gradient(network, context) == []


def test_places_that_were_first_asked_for_on_another_device_serve_the_cpu() -> None:
    summarizer = Summarizer(embedding_dim=4, scales=2, width=8, layers=1, heads=2, mlp=8)
    with torch.device("meta"):
        copy.deepcopy(summarizer).to("meta").tokens([torch.zeros(4, 3, 5)])
    assert summarizer.tokens([torch.zeros(4, 3, 5)]).device.type == "cpu"
