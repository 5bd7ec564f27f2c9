"""What a user is told whose model has no preview head."""

import sys

from ldm.pipeline import ZoomLDM
from ldm.support.typed import typed


def tell_without_preview(preset: str, model: ZoomLDM) -> None:
    """One line where the default preset would use a preview head and `model` has none: what is done, the remedy."""
    if preset == "default" and model.preview is None:
        print(
            "preview: the model has no preview head, so preset exact is used, which takes several times as long; "
            f"{typed('train')} --config preview makes one, and --preview names it",
            file=sys.stderr,
        )
