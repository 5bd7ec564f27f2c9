"""The README.md beside saved weights: what the model is, what it was trained on, figures, licence, use, limits.

Facts that the model contains are filled in; the user provides the rest, and the card says what was not stated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

NOT_STATED = "Not stated by whoever saved these weights."
FRONT = """---
license: {licence}
library_name: zoomldm
pipeline_tag: unconditional-image-generation
tags: [diffusion, multi-scale, {kind}]
---
"""
BODY = """# {title}

A multi-scale latent diffusion model (ZoomLDM, CVPR 2025): one network that samples {kind} images at {scales}.

```python
from ldm.pipeline import ZoomLDM

model = ZoomLDM.load("{source}")
images = model.sample("{first}", {conditions})
```

| | |
|---|---|
{facts}

## Trained on

{trained_on}

## Figures

{figures}

## Licence

{licence_told}

## Intended use

Research on generative models of {kind} images: sampling, super-resolution, features. What it samples is synthetic.
{forbidden}

## Limits

- Samples look plausible; none of them is evidence of anything, and structures in them may not exist.
- Conditions must come from the tile encoder `{encoder}` at these scales; others are refused.
- It represents the tissues, scanners, places and seasons of its training data, and may reproduce training images.
"""
FORBIDDEN = {
    "histology": "Not for diagnosis, nor for any decision about a patient.",
    "satellite": "Not as evidence of what is at a place.",
}


@dataclass(frozen=True)
class Card:
    """What the user states about a model."""

    trained_on: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    """value by name, such as "FID at 20x" """
    licence: str = ""
    """as the hub abbreviates it: mit, cc-by-nc-4.0"""


@dataclass(frozen=True)
class Facts:
    """Facts that a model contains."""

    id: str
    kind: str
    scales: list[str]
    tile_px: int
    encoder: str
    prediction: str
    parameters: Mapping[str, int]
    """by network"""
    draws_conditions: bool
    """with a CDM of its own"""
    steps: int | None = None
    """number of training steps, where its config says"""


def model_card(facts: Facts, card: Card, source: str) -> str:
    """The text of README.md; `source` is what `ZoomLDM.load` takes."""
    steps = f"It was trained for at most {facts.steps:,} steps." if facts.steps else ""
    rows = {
        "weights": facts.id,
        "scales": ", ".join(facts.scales),
        "patches": f"{facts.tile_px} x {facts.tile_px} pixels",
        "tile encoder of the conditions": facts.encoder,
        "the network predicts": facts.prediction,
        **{f"parameters of the {name}": f"{count:,}" for name, count in facts.parameters.items()},
    }
    figures = "\n".join(f"| {name} | {value:g} |" for name, value in card.figures.items())
    body = BODY.format(
        title=source.rpartition("/")[2],
        kind=facts.kind,
        scales=", ".join(facts.scales),
        source=source,
        first=facts.scales[0],
        conditions="count=4" if facts.draws_conditions else "embeddings=[grid]",
        facts="\n".join(f"| {name} | {value} |" for name, value in rows.items()),
        trained_on=f"{card.trained_on or NOT_STATED} {steps}".strip(),
        figures=f"| | |\n|---|---|\n{figures}" if figures else NOT_STATED,
        licence_told=f"`{card.licence}`" if card.licence else NOT_STATED,
        forbidden=FORBIDDEN.get(facts.kind, ""),
        encoder=facts.encoder,
    )
    return FRONT.format(licence=card.licence or "unknown", kind=facts.kind) + body
