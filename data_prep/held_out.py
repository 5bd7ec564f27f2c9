"""Demo slides for measuring a bundled model: held-out ones, and some of its training slides.

Drawn and prepared on first use.
"""

from pathlib import Path

from data_prep.crops import cut
from data_prep.preparation import prepare
from data_prep.preparation_config import load_prepare_config
from ldm.demo.world import generate
from ldm.support.bundled_models import BundledModel

SLIDE_PX = 4096
SEED, COUNT = 300, 16
"""seeds of held-out slides; the bundled networks were trained on some of the seeds 100 to 219"""


TRAINED, TRAINED_COUNT = 101, 12
"""seeds of training slides"""


def held_out_cohort(model: BundledModel) -> Path:
    """The folder of prepared held-out slides, with lossless patches of every scale."""
    return _prepared(model, "held_out", SEED, COUNT)


def training_cohort(model: BundledModel) -> Path:
    """The folder of prepared training slides, with lossless patches."""
    return _prepared(model, "trained_on", TRAINED, TRAINED_COUNT)


def _prepared(model: BundledModel, name: str, seed: int, count: int) -> Path:
    folder = model.data / f"{name}_cohort"
    changes = {"slides": model.data / name, "pattern": f"{model.kind}_{seed // 100}*.tiff", "out": folder}
    changes |= {"images": "png", "generate.seed": seed, "generate.count": count, "workers": 1}
    prepare(load_prepare_config([model.data_config], [f"{key}={value}" for key, value in changes.items()]))
    return folder


def held_out_pictures(model: BundledModel, size_px: int, count: int) -> list[Path]:
    """`count` pictures of size_px at the finest scale, taken from the held-out slides in turn."""
    paths = generate(model.data / "held_out", COUNT, SEED, model.kind, SLIDE_PX)
    each = -(-count // COUNT)
    cuts = cut(paths, model.kind, size_px, each, model.data / f"held_out_{size_px}")
    return sorted(cuts, key=lambda path: cuts.index(path) % each)[:count]
