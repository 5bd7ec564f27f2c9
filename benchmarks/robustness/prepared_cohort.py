"""A cohort of small slides with every kind of content, for scenarios that interrupt its preparation."""

from pathlib import Path

from benchmarks.fixtures.slides import tissue_image, write_slide
from data_prep.preparation_config import EncoderConfig, LadderConfig, PrepareConfig

TILE_PX, SCALES = 32, 5


def make(folder: Path, slides: int, side: int = 512) -> PrepareConfig:
    """Draw `slides` slides below `folder`, and say how to prepare them: embeddings, latents and pictures."""
    for number in range(slides):
        height = side - 40 * number % 200
        write_slide(folder / "slides" / f"{number}.tiff", [tissue_image(height, side, number)], 0.5)
    return PrepareConfig(
        slides=str(folder / "slides"),
        out=str(folder / "out"),
        ladder=LadderConfig("histology", SCALES),
        encoder=EncoderConfig("demo"),
        autoencoder="demo",
        tile_px=TILE_PX,
        images="png",
    )


def variant(config: PrepareConfig, **changes: object) -> PrepareConfig:
    return PrepareConfig(**{**vars(config), **changes})


def overrides(config: PrepareConfig) -> list[str]:
    """The config as arguments after `prepare.py --config configs/demo/data.yaml`."""
    given = {"slides": config.slides, "out": config.out, "tile_px": config.tile_px, "images": config.images}
    given |= {"workers": config.workers, "ladder.scales": SCALES, "pattern": "'**/*'", "generate": "null"}
    given |= {"regions_per_scale": "null", "batch_size": config.batch_size}
    return [f"{key}={value}" for key, value in given.items()]


def contents(out: str | Path) -> dict[str, bytes]:
    """Prepared files by name."""
    return {str(path.relative_to(out)): path.read_bytes() for path in Path(out).rglob("*.h5")}


def hidden(out: str | Path) -> list[str]:
    """Temporary files and claims."""
    return sorted(path.name for path in Path(out).rglob(".*"))


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Files that are missing in one of the two, or differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
