"""The training systems, by the `system` of a config."""

from omegaconf import DictConfig

from ldm.config.training_config import check_config
from ldm.errors import UserError
from ldm.training.base import Run, open_data
from ldm.training.cdm import CDMRun
from ldm.training.control import ControlRun
from ldm.training.distillation import DistillationRun
from ldm.training.preview import PreviewRun
from ldm.training.superres import SuperResRun
from ldm.training.vq import VQRun
from ldm.training.zoomldm import ZoomLDMRun

SYSTEMS: dict[str, type[Run]] = {
    "vq": VQRun,
    "zoomldm": ZoomLDMRun,
    "cdm": CDMRun,
    "control": ControlRun,
    "preview": PreviewRun,
    "superres": SuperResRun,
}


def open_run(config: DictConfig) -> Run:
    """The run that a config describes. UserError for keys and values that its schema does not allow, and for networks
    that do not fit each other.
    """
    check_config(config)
    run = (DistillationRun if is_student(config) else SYSTEMS[config.system])(config)
    run.check_fit()
    return run


def is_student(config: DictConfig) -> bool:
    """Whether a config has a `distillation`. UserError where that and `model.evaluations` are not given together."""
    student, evaluations = config.get("distillation") is not None, config.model.get("evaluations")
    if student and evaluations is None:
        raise UserError("model.evaluations: null found, expected a number of steps, for which `distillation` trains")
    if evaluations is not None and not student:
        raise UserError(f"model.evaluations: {evaluations} found without distillation; leave it out, or name a teacher")
    return student


__all__ = ["SYSTEMS", "Run", "open_data", "open_run"]
