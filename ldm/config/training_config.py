"""What a training config may hold: keys, types and ranges of each system's YAML (configs/*.yaml).

`ldm.config.targets` lists what a `target` may be.
"""

from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from ldm.config.objects import resolved
from ldm.config.schema import Count, Natural, NonNegative, Positive, Section, Seed, Share, Text, check, nearest
from ldm.config.targets import (
    AutoencoderTarget,
    Cdm,
    ControlTarget,
    Denoiser,
    Loss,
    Optimizer,
    PreviewTarget,
    Schedule,
    SummarizerTarget,
    Times,
)
from ldm.errors import UserError

PRECISIONS = Literal["auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true"]
ACCELERATORS = Literal["auto", "cpu", "gpu", "cuda", "mps"]
STRATEGIES = Literal["auto", "ddp", "ddp_find_unused_parameters_true"]
LOGGERS = Literal["tensorboard", "csv", "wandb", "mlflow", "none"]
PARTS = Literal["encoder", "decoder", "quantize", "quant_conv", "post_quant_conv"]

TilePx = Annotated[int, Field(ge=16, le=4096, multiple_of=16)]
Workers = Annotated[int, Field(ge=0, le=1024)]
Devices = Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]
Nodes = Annotated[int, Field(ge=1, le=65536)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class LadderSection(Section):
    kind: Literal["histology", "satellite"]
    scales: Annotated[int, Field(ge=1, le=8)] | None = None


class Data(Section):
    """Arguments of ldm.data.datamodule.CohortData, and the preparation that makes the cohort."""

    cohort: Text
    batch_size: Count
    """images per process and step"""
    prepare: Text | None = None
    scales: Annotated[list[Text], Field(min_length=1)] | None = None
    scale_weights: Annotated[list[Positive], Field(min_length=1)] | None = None
    """how often each of the scales is drawn, relative to the others; None: all alike (paper, section 4.1.1)"""
    split: Text | None = None
    validation_per_scale: Count = 64
    workers: Workers = 0


class LatentData(Data):
    kind: Literal["latents"] = "latents"


class ImageData(Data):
    kind: Literal["images"]
    crop_px: Annotated[int, Field(ge=16, le=4096, multiple_of=4)] = 64


class PairData(Data):
    kind: Literal["pairs"]


class Training(Section):
    """How long, how and on what machines."""

    optimizer: Optimizer
    warmup: Natural
    decay_from: Fraction | None
    """share of the steps after which the learning rate decays"""
    max_steps: Count
    ema: Fraction
    accumulate: Annotated[int, Field(ge=1, le=10**6)]
    clip: Positive | None
    precision: PRECISIONS
    accelerator: ACCELERATORS
    devices: Devices
    nodes: Nodes
    strategy: STRATEGIES
    logger: LOGGERS | list[LOGGERS] | None = None
    """where losses are written; default: TensorBoard and CSV"""
    validate_every: Count
    checkpoint_every: Count


class AutoencoderSection(Training):
    loss: Loss
    smooth: NonNegative
    noise: NonNegative = 0.0
    revive_every: Natural
    frozen: list[PARTS]
    normalise_latents: bool


class TimesSection(Training):
    times: Times


class ControlSection(TimesSection):
    p_uncond: Share


class ZoomLDMSection(ControlSection):
    keep: Literal["last", "best"] = "last"
    compile: bool = False
    """the U-Net's training step through torch.compile"""
    checkpointing: bool = False
    """the U-Net's blocks are computed again in the backward pass, which saves memory of activations"""


class AutoencoderModel(Section):
    autoencoder: AutoencoderTarget


class ZoomLDMModel(Section):
    denoiser: Denoiser
    summarizer: SummarizerTarget
    schedule: Schedule
    prediction: Literal["eps", "v", "z_0"]
    autoencoder: AutoencoderTarget | None = None
    """written when the run starts"""

    evaluations: Annotated[int, Field(ge=1, le=16)] | None = None
    """of a distilled model: the number of sampling steps that it was trained for"""


class CdmOptions(Section):
    labels: Text | None = None
    """CSV with the columns slide and label, of slides of the cohort"""


class CdmModel(Section):
    cdm: Cdm
    schedule: Schedule
    autoencoder: AutoencoderTarget | None = None


class ControlNetModel(Section):
    control: ControlTarget
    factor: Literal[2, 4, 8, 16]
    autoencoder: AutoencoderTarget | None = None


class SuperResModel(Section):
    denoiser: Denoiser
    schedule: Schedule
    prediction: Literal["eps", "v", "z_0"]
    factor: Literal[2, 4, 8, 16]


class PreviewNetworks(Section):
    preview: PreviewTarget


class Config(Section):
    """What every training config has."""

    system: Text
    run: Text | None
    seed: Seed
    ladder: LadderSection
    tile_px: TilePx
    data: Data
    training: Training
    model: Section
    autoencoder: Text | None = None
    encoder: Text | None = None


class AutoencoderConfig(Config):
    init: Text | None
    data: ImageData
    training: AutoencoderSection
    model: AutoencoderModel


class DistillationSection(Section):
    """A student of a finished model: `ldm.training.distillation`."""

    teacher: Text
    teacher_steps: Annotated[int, Field(ge=1, le=64)]
    """of the teacher for one of the student's"""
    guidance: float
    """of the teacher; becomes part of the student"""
    guidance_interval: tuple[float, float] | None = None


class ZoomLDMConfig(Config):
    encoder: Text
    autoencoder: Text
    init: Text | None
    data: LatentData
    training: ZoomLDMSection
    model: ZoomLDMModel
    distillation: DistillationSection | None = None


class CdmConfig(Config):
    zoomldm: Text
    contexts_id: Text | None = None
    """id of the Summarizer whose contexts are learnt"""
    cdm: CdmOptions | None = None
    label_names: Annotated[list[Text], Field(min_length=2)] | None = None
    """labels that the CDM is conditioned on, in the order of their numbers; written when the run starts"""
    labels_id: Text | None = None
    """digest of the labels of all slides"""
    data: LatentData
    model: CdmModel


class ControlConfig(Config):
    zoomldm: Text
    autoencoder: Text
    steers: Text | None = None
    data: PairData
    training: ControlSection
    model: ControlNetModel


class SuperResConfig(Config):
    autoencoder: Text
    latents_id: Text | None = None
    """id of the encoding of the latents that are denoised"""
    data: PairData
    training: TimesSection
    model: SuperResModel


class PreviewConfig(Config):
    autoencoder: Text
    decoder_id: Text | None = None
    """id of the decoder whose images are learnt"""
    data: LatentData
    model: PreviewNetworks


SCHEMAS: dict[str, type[Config]] = {
    "vq": AutoencoderConfig,
    "zoomldm": ZoomLDMConfig,
    "cdm": CdmConfig,
    "control": ControlConfig,
    "preview": PreviewConfig,
    "superres": SuperResConfig,
}
OF_ONE_SCALE = ("control", "superres")
"""systems whose `data` says for which scale the weights are"""
OF_TRAINING = ("run", "seed", "data", "training", "init", "cdm", "zoomldm", "autoencoder", "distillation")
"""keys that are not checked in a finished run"""


def check_config(config: DictConfig, where: str = "config") -> None:
    """UserError for a training config with an unknown or missing key, or a value of another type or range."""
    check(_schema(config, where), OmegaConf.to_container(config), where)


def check_finished(config: DictConfig, where: str) -> None:
    """UserError for the config of a finished run that does not describe a model in known keys and values."""
    says_scale = config.get("system") in OF_ONE_SCALE
    unread = [key for key in OF_TRAINING if not (says_scale and key == "data")]
    check(_schema(config, where), OmegaConf.to_container(config), where, unread)


def _schema(config: DictConfig, where: str) -> type[Config]:
    system = config.get("system")
    if not isinstance(system, str) or system not in SCHEMAS:
        known = ", ".join(SCHEMAS)
        raise UserError(f"{where}: system is {system}{nearest(system, SCHEMAS) or ';'} it is one of {known}")
    return SCHEMAS[system]


def put(config: DictConfig, **values: Any) -> None:
    """Set keys to values found in files, as plain text without references."""
    for key, value in values.items():
        config[key] = resolved({key: value})[key]
