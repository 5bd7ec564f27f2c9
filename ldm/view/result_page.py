"""A page of a result that needs nothing else: small pictures of its layers, a detail at full resolution, its figures.

Pictures are inside the page. It has no scripts, so it opens anywhere, also from a mail.
"""

import base64
import io
import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep.slides.readers import Pixels
from ldm.errors import one_line
from ldm.support.files import write_text
from ldm.view.catalogue import results_in
from ldm.view.entries import Entry, Layer

PREVIEW = "preview.html"
SHOWN_PX, DETAIL_PX = 768, 384
QUALITY = 92
LARGEST = 24
"""images of a result that are shown"""
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { margin: 0 auto; padding: 2em; max-width: 1500px; background: light-dark(#f6f7f9, #14161b) }
h1 { font-size: 1.3em; margin: 0 } h2 { font-size: 1.1em; margin: 2em 0 .5em } p { margin: .3em 0; opacity: .7 }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 16px; margin: 12px 0 }
figure { margin: 0; padding: 10px; border-radius: 10px; background: light-dark(#fff, #1d2027);
  box-shadow: 0 1px 3px rgb(0 0 0 / .15) }
img { display: block; width: 100%; border-radius: 4px }
figcaption { padding-bottom: 8px; font-weight: 600 } figcaption small { font-weight: 400; opacity: .7 }
table { border-collapse: collapse; font-size: 13px } td { padding: 2px 16px 2px 0; vertical-align: top }
td:first-child { opacity: .7; white-space: nowrap } td { overflow-wrap: anywhere }
code { padding: 2px 6px; border-radius: 5px; background: light-dark(#e9ebf0, #2a2e38) }
"""


def write_preview(folder: Path) -> Path:
    """Write the page of the result of joint or superres in `folder`."""
    entries, record = results_in(folder)
    parts = [_section(entry, heading=len(entries) > 1) for entry in entries[:LARGEST]]
    if len(entries) > LARGEST:
        parts.append(f"<p>{len(entries) - LARGEST} more are not shown here.</p>")
    name = escape(one_line(folder.resolve().name))
    about = escape(entries[0].about if entries else "nothing was made")
    page = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title><style>{STYLE}</style>\n<h1>{name}</h1>\n<p>{about}; to zoom in: "
        f"<code>zoomldm view {escape(one_line(str(folder)))}</code></p>\n{''.join(parts)}"
        f"<h2>Settings and figures</h2>\n<table>{''.join(_rows('', record))}</table></html>\n"
    )
    write_text(folder / PREVIEW, page)
    return folder / PREVIEW


def _section(entry: Entry, heading: bool) -> str:
    """The layers of an entry, and below them the same detail of each."""
    wholes = [_figure(layer.name, _size(layer), _whole(layer)) for layer in entry.layers]
    row = f'<div class="row">{"".join(wholes)}</div>\n'
    if max(entry.pyramid.size) > DETAIL_PX:
        details = [_figure(layer.name, "detail", _detail(entry, layer)) for layer in entry.layers]
        row += f'<div class="row">{"".join(details)}</div>\n'
    return (f"<h2>{escape(entry.name)}</h2>\n" if heading else "") + row


def _size(layer: Layer) -> str:
    return f"{layer.pyramid.size.width} x {layer.pyramid.size.height} px"


def _figure(name: str, about: str, pixels: Pixels) -> str:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="JPEG", quality=QUALITY, subsampling=0)
    text = base64.b64encode(content.getvalue()).decode()
    return (
        f"<figure><figcaption>{escape(name)} <small>{escape(about)}</small></figcaption>"
        f'<img alt="{escape(name)}" src="data:image/jpeg;base64,{text}"></figure>'
    )


def _whole(layer: Layer) -> Pixels:
    """(h, w, 3), at most SHOWN_PX a side; small layers are enlarged by whole factors, pixel by pixel."""
    pyramid = layer.pyramid
    fitting = [k for k, size in enumerate(pyramid.levels) if max(size) >= SHOWN_PX]
    level = fitting[0] if fitting else len(pyramid.levels) - 1
    picture = Image.fromarray(pyramid.window(level, 0, 0, *pyramid.levels[level]))
    if max(picture.size) >= SHOWN_PX:
        picture.thumbnail((SHOWN_PX, SHOWN_PX), Image.Resampling.BOX)
    return _enlarged(np.asarray(picture), SHOWN_PX)


def _detail(entry: Entry, layer: Layer) -> Pixels:
    """The middle of an entry's main layer at full resolution, and the same place of another layer."""
    main, own = entry.pyramid.size, layer.pyramid.size
    side = min(DETAIL_PX, *main)
    share = own.width / main.width
    x, y = ((length - side) // 2 * share for length in main)
    part = max(1, round(side * share))
    window = layer.pyramid.window(len(layer.pyramid.levels) - 1, round(x), round(y), part, part)
    return _enlarged(window, DETAIL_PX)


def _enlarged(pixels: Pixels, side: int) -> Pixels:
    factor = max(1, side // max(pixels.shape[:2]))
    return pixels.repeat(factor, 0).repeat(factor, 1)


def _rows(prefix: str, value: Any) -> list[str]:
    """Table rows of a record, nested keys joined by dots; long lists and hashes are left out."""
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in _rows(f"{prefix}.{key}" if prefix else str(key), inner)]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [row for number, inner in enumerate(value[:LARGEST]) for row in _rows(f"{prefix}[{number}]", inner)]
    text = f"{value:.5g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, list) else str(value)
    return [f"<tr><td>{escape(prefix)}</td><td>{escape(one_line(text)[:200])}</td></tr>\n"]
