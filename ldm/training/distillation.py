"""A student that samples in a few steps, distilled from a finished model (section `distillation` of a zoomldm config).

The sampling path of a teacher is deterministic, so one long step of it is a function of z_t. The student learns that
function: a step of DDIM with its prediction ends where several steps of the teacher do (as in progressive distillation,
Salimans and Ho 2022, appendix G, but in one stage, with a second-order teacher).

    z_s = the teacher's path from z_t, by DPM-Solver++(2M)                     t > s: two noise levels of the student
    x   = (z_s - r z_t) / (sqrt(a_s) - r sqrt(a_t)),  r = sqrt((1 - a_s) / (1 - a_t))       DDIM with x ends in z_s
    L   = || v(f(z_t, t, context)) - v(x) ||^2

In v, whatever the network predicts: that weights the error of x with 1 + SNR. Guidance of the teacher becomes part of
the student.
Shapes: z (b, 3, h, w), t (b,), context (b, n, d).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ldm.checkpoint import load_strict
from ldm.data.batch import Batch
from ldm.data.datamodule import CohortData
from ldm.diffusion.guidance import Denoiser
from ldm.diffusion.samplers import Before, dpmpp_step, log_snr, log_snr_timesteps
from ldm.diffusion.schedule import add_noise, predict, target
from ldm.errors import UserError
from ldm.pipeline import ZoomLDM
from ldm.training.zoomldm import ZoomLDMRun, ZoomLDMTraining, finished_model

INSIDE = 0.25
"""share of the batches that begin inside a step of the student, for samplings in other numbers of steps"""


class TeacherPath:
    """Noise levels of the teacher, noisiest first; the student's are every `substeps`-th of them."""

    def __init__(self, alpha_bar: Tensor, evaluations: int, substeps: int) -> None:
        self.evaluations, self.substeps = evaluations, substeps
        self.timesteps = torch.tensor(refined(log_snr_timesteps(evaluations, alpha_bar), substeps, alpha_bar))
        table = alpha_bar.double().cpu()
        self.a = torch.cat([table[self.timesteps], table[:1]])  # (evaluations * substeps + 1,)

    def level(self, index: Tensor, like: Tensor) -> Tensor:
        """alpha_bar at the levels `index` (b,), (b, 1, 1, 1) in float32 or more."""
        return self.a.to(like.device, torch.promote_types(like.dtype, torch.float32))[index].reshape(-1, 1, 1, 1)

    def follow(self, denoise: Denoiser, z_t: Tensor, first: Tensor, count: int) -> Tensor:
        """z_t (b, 3, h, w) at the levels `first` (b,) -> `count` levels further, by DPM-Solver++(2M) in z_0."""
        before: Before | None = None
        for index in range(count):
            a_t, a_next = (self.level(first + index + step, z_t) for step in (0, 1))
            t = self.timesteps.to(z_t.device)[first + index]
            z_0 = predict(denoise(z_t, t), z_t, a_t, "eps").z_0
            z_t, before = dpmpp_step(z_t, z_0, a_t, a_next, before)
        return z_t


def refined(timesteps: Sequence[int], substeps: int, alpha_bar: Tensor) -> list[int]:
    """`timesteps`, noisiest first, and between each and the next, or 0, `substeps` - 1 more, even in log-SNR."""
    level = log_snr(alpha_bar.double().cpu())
    result: list[int] = []
    for begin, end in zip(timesteps, [*timesteps[1:], 0], strict=True):
        between = torch.linspace(float(level[begin]), float(level[end]), substeps + 1, dtype=torch.float64)[:-1]
        result += [int((level - value).abs().argmin()) for value in between]
    return result


def step_between(z_t: Tensor, z_s: Tensor, a_t: Tensor, a_s: Tensor) -> tuple[Tensor, Tensor]:
    """The (z_0, eps) with which DDIM steps from z_t at a_t to z_s at a_s < 1."""
    r = ((1 - a_s) / (1 - a_t)).sqrt()
    z_0 = (z_s - r * z_t) / (a_s.sqrt() - r * a_t.sqrt())
    return z_0, (z_t - a_t.sqrt() * z_0) / (1 - a_t).sqrt()


class Distillation(ZoomLDMTraining):
    """Trains the `denoiser` to follow `teacher`."""

    teacher: ZoomLDM
    """set before training; no module: checkpoints do not contain it"""
    path: TeacherPath
    """set before training"""

    def __init__(self, *, guidance: dict[str, Any], **options: Any) -> None:
        """`guidance`: that of the teacher, arguments of `ZoomLDM.denoiser`; `options` as for ZoomLDMTraining."""
        super().__init__(**options)
        self.guidance = guidance
        self.summarizer.requires_grad_(False)

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)

    def errors(self, z_0: Tensor, context: Tensor, eps: Tensor, step: Tensor, offset: int) -> Tensor:
        """(b,) mean squared error of the student's prediction in its steps `step` (b,) from level `offset` on."""
        first = step * self.path.substeps + offset
        count = self.path.substeps - offset
        a_t, a_s = self.path.level(first, z_0), self.path.level(first + count, z_0)
        z_t = add_noise(z_0, eps, a_t)
        with torch.no_grad():
            z_s = self.path.follow(self.teacher.denoiser(context, **self.guidance), z_t, first, count)
            wanted = target(*step_between(z_t, z_s, a_t, a_s), a_t, "v")
        output = self.called_denoiser(z_t, self.path.timesteps.to(z_t.device)[first], context).float()
        found = target(*predict(output, z_t, a_t, self.prediction), a_t, "v")
        return (found - wanted).square().flatten(1).mean(1)

    def training_step(self, batch: Batch) -> Tensor:
        generator, total = batch.stream.generator(self.device), batch.stream.total
        step = torch.randint(self.path.evaluations, (total,), generator=generator, device=self.device)
        inside, place = torch.rand(2, generator=generator, device=self.device).tolist()
        offset = 1 + int(place * (self.path.substeps - 1)) if inside < INSIDE and self.path.substeps > 1 else 0
        kept = torch.rand(total, generator=generator, device=self.device) >= self.p_uncond
        eps = torch.randn(total, *batch.z_0.shape[1:], generator=generator, device=self.device)
        step, kept, eps = (batch.stream.local(drawn, len(batch)) for drawn in (step, kept, eps))
        with torch.no_grad():
            context = self.summarizer(batch.embedding, batch.scale) * kept[:, None, None]
        loss = self.errors(batch.z_0, context, eps, step, offset).mean()
        self.log("loss", loss, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch) -> None:
        """Log the error over all steps of the student, with fixed noise: of all, by scale."""
        context = self.summarizer(batch.embedding, batch.scale)
        eps = torch.randn(batch.z_0.shape, generator=batch.stream.generator()).to(self.device)
        steps = range(self.path.evaluations)
        each = [self.errors(batch.z_0, context, eps, torch.full_like(batch.scale, step), 0) for step in steps]
        self.log_scores(torch.stack(each).mean(0), batch)


class DistillationRun(ZoomLDMRun):
    """A zoomldm run whose config has a `distillation` section; it begins with the teacher's weights."""

    system: Distillation

    def system_of(self, **options: Any) -> Distillation:
        section = self.config.distillation
        guidance = {"guidance": section.guidance, "guidance_interval": section.get("guidance_interval")}
        return Distillation(guidance=guidance, **options)

    def attach(self, data: CohortData) -> None:
        super().attach(data)
        source, prediction = self.config.distillation.teacher, self.config.model.prediction
        teacher = finished_model(source, self.ladder, str(self.config.training.precision))
        if prediction != teacher.prediction:
            raise UserError(
                f"model.prediction: {prediction} found, but the teacher {source} predicts {teacher.prediction}; "
                "expected the same"
            )
        for part, network in (("denoiser", teacher.unet), ("summarizer", teacher.summarizer)):
            load_strict(self.networks()[part], network.state_dict(), f"model.{part} of a student of {source}")
        steps = self.config.model.evaluations, self.config.distillation.teacher_steps
        self.system.teacher, self.system.path = teacher, TeacherPath(teacher.alpha_bar, *steps)
