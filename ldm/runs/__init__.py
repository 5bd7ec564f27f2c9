"""What main.py trains: a config's `system` names one."""

from omegaconf import DictConfig

from ldm.runs.autoencoder import AutoencoderRun
from ldm.runs.base import Run, open_data
from ldm.runs.conditioning import ConditioningRun
from ldm.runs.control import ControlRun
from ldm.runs.zoomldm import ZoomLDMRun
from ldm.training_config import check_config

SYSTEMS: dict[str, type[Run]] = {
    "vq": AutoencoderRun,
    "zoomldm": ZoomLDMRun,
    "cdm": ConditioningRun,
    "control": ControlRun,
}


def open_run(config: DictConfig) -> Run:
    """The run that a config describes. UserError for keys and values that its schema does not allow, and for networks
    that do not fit each other.
    """
    check_config(config)
    run = SYSTEMS[config.system](config)
    run.check_fit()
    return run


__all__ = ["SYSTEMS", "Run", "open_data", "open_run"]
