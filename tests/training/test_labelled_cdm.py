"""A CDM conditioned on the label of the slide: learnt, stored, drawn by, refused."""

from pathlib import Path

import pytest
import torch

import main
from benchmarks.fixtures import toy, training_cohort
from ldm.cli import joint, sample
from ldm.conditioning_model import ConditioningModel
from ldm.diffusion.schedule import cosine_alpha_bar
from ldm.errors import UserError
from ldm.networks.dit import DiT
from ldm.pipeline import ZoomLDM
from ldm.training.cdm import CDMTraining

ROOT = Path(__file__).parents[2]
LABELS = "slide,label\ns0,normal\ns1,tumour\ns2,normal\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """A ZoomLDM run, a labelled CDM trained on it, and the overrides of its training."""
    folder = tmp_path_factory.mktemp("labelled")
    zoomldm = toy.run_folder(folder / "zoomldm", "zoomldm")
    overrides = training_cohort.of_system("cdm", training_cohort.make(folder), zoomldm)
    (folder / "labels.csv").write_text(LABELS)
    overrides += [f"cdm.labels={folder / 'labels.csv'}", "training.max_steps=4"]
    assert main.main(["--base", str(ROOT / "configs/demo/cdm.yaml"), f"run={folder / 'cdm'}", *overrides]) == 0
    return zoomldm, folder / "cdm", overrides


def test_labels_are_stored_with_the_weights_and_drawn_by(finished: tuple[Path, Path, list[str]]) -> None:
    zoomldm, cdm, _ = finished
    model = ZoomLDM.load(zoomldm, cdm=cdm)
    assert model.cdm_needed.labels == ("normal", "tumour")
    assert model.cdm_needed.network.labels == 2
    draw = {label: model.sample_context("10x", 2, steps=3, label=label) for label in (None, "normal", "tumour")}
    assert not torch.equal(draw["normal"], draw["tumour"])
    assert not torch.equal(draw["normal"], draw[None])
    alone = model.sample_context("10x", 1, seed=1, steps=3, label="tumour")[0]
    torch.testing.assert_close(draw["tumour"][1], alone, rtol=0, atol=1e-4)  # batches of two round otherwise


def test_an_unknown_label_is_refused_in_one_line(finished: tuple[Path, Path, list[str]], tmp_path: Path) -> None:
    zoomldm, cdm, _ = finished
    model = ["--model", str(zoomldm), "--cdm", str(cdm), "--out", str(tmp_path / "out")]
    for run, more in ((joint.main, ["--size", "64", "--accelerator", "cpu"]), (sample.main, ["--device", "cpu"])):
        with pytest.raises(
            UserError, match=r"--label: tumor is no label of the CDM .*; expected one of normal, tumour"
        ):
            run([*model, *more, "--from", "cdm", "--label", "tumor"])
        with pytest.raises(UserError, match=r"--label: tumour is for conditions of a CDM, not of .*; add --from cdm"):
            run([*model, *more, "--from", str(toy.slide(tmp_path / "a.h5")), "--label", "tumour"])
    assert not list(tmp_path.glob("out/*.png"))
    with pytest.raises(UserError, match=r"--label: tumour is no label of the CDM .*; it has none: train it with"):
        ConditioningModel.load(toy.run_folder(tmp_path / "plain", "cdm")).number_of("tumour")


def test_a_command_draws_a_slide_of_the_label(finished: tuple[Path, Path, list[str]], tmp_path: Path) -> None:
    zoomldm, cdm, _ = finished
    given = ["--model", str(zoomldm), "--cdm", str(cdm), "--out", str(tmp_path / "out"), "--device", "cpu"]
    found = []
    for label in (["--label", "tumour"], ["--label", "normal"], []):
        sample.main([*given, "--from", "cdm", "--scales", "10x", "--count", "1", "--steps", "2", *label])
        found.append(next((tmp_path / "out").glob("10x_*.png")).read_bytes())
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("slide,label\ns1,tumour\ns2,tumour\n", "has the labels tumour; expected at least two"),
        ("slide,label\ns0,normal\ns1,tumour\n", "no training slide of .* is labelled normal"),
        ("slide,kind\ns0,normal\n", "label"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(
    labels: str, message: str, finished: tuple[Path, Path, list[str]], tmp_path: Path
) -> None:
    (tmp_path / "labels.csv").write_text(labels)
    overrides = [*finished[2][:-2], f"cdm.labels={tmp_path / 'labels.csv'}", "training.max_steps=4"]
    with pytest.raises(UserError, match=message):
        main.main(["--base", str(ROOT / "configs/demo/cdm.yaml"), f"run={tmp_path / 'cdm'}", *overrides])


def test_a_run_does_not_go_on_with_other_labels(finished: tuple[Path, Path, list[str]]) -> None:
    _, cdm, overrides = finished
    labels = Path(overrides[-2].partition("=")[2])
    labels.write_text(LABELS.replace("s2,normal", "s2,tumour"))
    with pytest.raises(UserError, match=r"cdm\.labels: .* was changed since the run began"):
        main.main(["--resume", str(cdm), "training.max_steps=6"])
    labels.write_text(LABELS)


def test_without_labels_the_network_is_the_published_one() -> None:
    torch.manual_seed(0)
    plain = DiT(context_dim=8, width=16, layers=1, heads=2, tokens=5, scales=2)
    torch.manual_seed(0)
    labelled = DiT(context_dim=8, width=16, layers=1, heads=2, tokens=5, scales=2, labels=3)
    own = labelled.state_dict()
    added = {name: own.pop(name) for name in list(own) if name.startswith("label_embedder")}
    assert [tuple(weight.shape) for weight in added.values()] == [(4, 16)]
    assert all(torch.equal(weight, own[name]) for name, weight in plain.state_dict().items())
    assert plain.state_dict().keys() == own.keys()


def test_a_label_is_learnt() -> None:
    """Contexts of two kinds of slide: samples under a label are of that kind, without one of both."""
    torch.manual_seed(0)
    network = DiT(context_dim=4, width=32, layers=1, heads=2, tokens=3, scales=1, labels=2)
    alpha_bar = cosine_alpha_bar()
    system = CDMTraining(cdm=network, alpha_bar=alpha_bar, scale_names=["a"], plan=None)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(250):
        kind = torch.randint(0, 2, (32,))
        x_0 = (2.0 * kind - 1)[:, None, None] + 0.1 * torch.randn(32, 3, 4)
        label = kind.masked_fill(torch.rand(32) < 0.1, 2)
        scale, t = torch.zeros(32, dtype=torch.long), torch.randint(0, 1000, (32,))
        mse, _ = system.errors(x_0, scale, t, torch.randn_like(x_0), label)
        optimizer.zero_grad()
        mse.mean().backward()
        optimizer.step()
    model = ConditioningModel(network, alpha_bar, labels=("low", "high"))
    scale, noise = torch.zeros(64, dtype=torch.long), torch.randn(64, 3, 4)
    with torch.no_grad():
        low, high, both = (model.sample(noise, scale, 20, label).mean((1, 2)) for label in ("low", "high", None))
    assert (low < 0).float().mean() > 0.95
    assert (high > 0).float().mean() > 0.95
    assert 0.2 < (both > 0).float().mean() < 0.8
