"""What main.py trains: a config's `system` names one."""

from ldm.runs.autoencoder import AutoencoderRun
from ldm.runs.base import Run, open_data
from ldm.runs.conditioning import ConditioningRun
from ldm.runs.control import ControlRun
from ldm.runs.zoomldm import ZoomLDMRun

SYSTEMS: dict[str, type[Run]] = {
    "vq": AutoencoderRun,
    "zoomldm": ZoomLDMRun,
    "cdm": ConditioningRun,
    "control": ControlRun,
}

__all__ = ["SYSTEMS", "Run", "open_data"]
