"""A cohort of toy slides, and what turns the demo configs into runs of seconds on it."""

from pathlib import Path

from ldm.data.split_file import NAME, Line, Shares, Split, write_split
from ldm.pipeline import load_autoencoder
from tests import toy

SHRUNK = [
    f"tile_px={toy.TILE_PX}",
    f"ladder.scales={len(toy.SCALES)}",
    "data.batch_size=4",
    "data.validation_per_scale=2",
    "data.split=null",
    "training.precision=32-true",
    "training.optimizer={target: torch.optim.AdamW, lr: 1.0e-3}",
    "training.decay_from=null",
    "training.warmup=2",
    "training.validate_every=10",
    "training.checkpoint_every=4",
]
MODEL = [
    f"model.summarizer={{embedding_dim: {toy.EMBEDDING}, scales: 3, width: 32, layers: 1, heads: 2, mlp: 32}}",
    "model.denoiser={width: 32, multipliers: [1, 1], blocks: 1, attention: [2], context_dim: 32}",
]


def make(folder: Path, slides: int = 3) -> list[str]:
    """Write slides and the autoencoder that their latents claim; returns overrides for configs/demo/zoomldm.yaml."""
    source = toy.run_folder(folder / "vq", "vq")
    autoencoder, identity = load_autoencoder(source)
    latents_id = autoencoder.latents_id()
    for number in range(slides):
        toy.slide(folder / "cohort" / f"s{number}.h5", encoder="demo", autoencoder=identity, latents_id=latents_id)
    parts = {f"s{number}": "train" if number else "validation" for number in range(slides)}
    write_split(folder / "cohort" / NAME, Split({slide: Line(slide, part) for slide, part in parts.items()}, Shares()))
    return [f"data.cohort={folder / 'cohort'}", f"autoencoder={source}", *SHRUNK, *MODEL]
