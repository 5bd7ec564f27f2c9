"""A distilled student: a step of it ends where several of its teacher's do; its run is a model that knows its steps."""

import os
from pathlib import Path

import pytest
import torch

import main
from benchmarks.fixtures import toy, training_cohort
from ldm.config.objects import load_config
from ldm.diffusion.samplers import log_snr_timesteps
from ldm.diffusion.schedule import Prediction, scaled_linear_alpha_bar
from ldm.diffusion.steps import ddim_steps
from ldm.errors import UserError
from ldm.pipeline import ZoomLDM
from ldm.training.distillation import TeacherPath, step_between
from ldm.training.systems import open_data, open_run
from tests.golden.parity import noise

CONFIG = Path(__file__).parents[2] / "configs/demo/distill.yaml"
ALPHA_BAR = scaled_linear_alpha_bar()
STD = 0.5


def exact_eps(z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The noise of data N(0, STD^2)."""
    a_t = ALPHA_BAR[t].reshape(-1, 1, 1, 1)
    return (1 - a_t).sqrt() / (a_t * STD**2 + 1 - a_t) * z_t


@pytest.mark.parametrize("evaluations", [1, 2, 3, 8])
@pytest.mark.parametrize("substeps", [1, 4])
def test_the_students_noise_levels_are_those_that_it_samples_at(evaluations: int, substeps: int) -> None:
    path = TeacherPath(ALPHA_BAR, evaluations, substeps)
    assert path.timesteps[::substeps].tolist() == log_snr_timesteps(evaluations, ALPHA_BAR)
    assert (path.timesteps.diff() < 0).all()
    assert (path.a.diff() > 0).all()


def test_a_path_in_one_batch_is_each_samples_own() -> None:
    path, z_t = TeacherPath(ALPHA_BAR, 3, 4), noise(1, 3, 3, 4, 4)
    together = path.follow(exact_eps, z_t, torch.tensor([0, 4, 8]), 4)
    for number in range(3):
        alone = path.follow(exact_eps, z_t[number : number + 1], torch.tensor([4 * number]), 4)
        assert torch.allclose(together[number : number + 1], alone, atol=1e-6)


def test_the_teachers_path_is_that_of_gaussian_data() -> None:
    path, first = TeacherPath(ALPHA_BAR, 3, 8), torch.tensor([8, 16])
    z_t = noise(2, 2, 3, 8, 8)
    a_t, a_s = path.level(first, z_t), path.level(first + 8, z_t)
    exact = z_t * ((a_s * STD**2 + 1 - a_s) / (a_t * STD**2 + 1 - a_t)).sqrt()
    assert torch.allclose(path.follow(exact_eps, z_t, first, 8), exact, rtol=0.03)


def test_ddim_with_what_is_learnt_ends_where_the_teacher_does() -> None:
    z_t, z_s = noise(3, 2, 3, 4, 4).double(), noise(4, 2, 3, 4, 4).double()
    step = ddim_steps([900, 400], ALPHA_BAR)[0]
    prediction = Prediction(*step_between(z_t, z_s, step.a_t, step.a_next))
    assert torch.allclose(step.advance(prediction), z_s)
    assert torch.allclose(step.a_t.sqrt() * prediction.z_0 + (1 - step.a_t).sqrt() * prediction.eps, z_t)


@pytest.fixture(scope="module")
def teacher(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("teacher") / "run"
    config = CONFIG.with_name("zoomldm.yaml")
    assert main.main(["--base", str(config), f"run={run}", *overrides, "training.max_steps=30"]) == 0
    os.environ.pop("ZOOMLDM_RUN", None)
    return run


def test_a_student_comes_nearer_to_its_teacher_and_samples_in_its_own_steps(
    tmp_path: Path, overrides: list[str], teacher: Path
) -> None:
    run, given = tmp_path / "run", [*overrides, f"distillation.teacher={teacher}"]
    steps = ["training.max_steps=60", "training.validate_every=30", "training.ema=0.5"]
    assert main.main(["--base", str(CONFIG), f"run={run}", *given, *steps]) == 0
    os.environ.pop("ZOOMLDM_RUN", None)
    losses = training_cohort.losses(run, "val/loss")
    assert losses[max(losses)] < losses[min(losses)]
    student, before = (ZoomLDM.load(folder, precision="fp32") for folder in (run, teacher))
    for name, weights in before.summarizer.state_dict().items():
        assert torch.equal(student.summarizer.state_dict()[name], weights), name
    assert not torch.equal(student.unet.out[2].weight, before.unet.out[2].weight)
    context = student.context([noise(5, toy.EMBEDDING, 1, 1)], "20x")
    assert torch.equal(student.sample_latents(context), student.sample_latents(context, sampler="ddim", steps=3))
    student.save_pretrained(tmp_path / "saved")
    assert ZoomLDM.load(tmp_path / "saved", precision="fp32").evaluations == 3


def test_what_does_not_fit_the_teacher_is_refused(overrides: list[str], teacher: Path) -> None:
    given = [*overrides, f"distillation.teacher={teacher}"]
    for changes, message in (
        (["model.prediction=eps"], r"model.prediction: eps found, but the teacher .* predicts v"),
        (["model.denoiser.width=64"], "model.denoiser of a student of"),
        (["model.evaluations=null"], "model.evaluations: null found, expected a number of steps"),
        (["distillation=null"], "model.evaluations: 3 found without distillation"),
    ):
        config = load_config([CONFIG], [*given, *changes])
        with pytest.raises(UserError, match=message):
            open_run(config).attach(open_data(config))
