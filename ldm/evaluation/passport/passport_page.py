"""The passport as one HTML file for people: figures in tables, pictures inside the file, names escaped."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image as PillowImage

from ldm.evaluation.passport.figures import PassportFigure
from ldm.images.contact_sheet import Pixels

SIDE_PX = 160
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; padding: 0 1em; max-width: 1080px; color: #222 }
table { border-collapse: collapse; width: 100% }
th, td { padding: .45em .7em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }
th { border-bottom: 2px solid #888 } td.number, .mark { white-space: nowrap } figcaption { overflow-wrap: anywhere }
td small { color: #555; display: block } h2 { margin-top: 1.6em }
.look { background: #fdeaea } .mark { font-weight: 600 } .look .mark { color: #a02020 } .unknown .mark { color: #777 }
figure { display: inline-block; margin: 0 .35em .8em 0; max-width: 128px; vertical-align: top }
figure img { display: block; max-width: 128px } figcaption { font-size: 12px; color: #555 }
.pair { display: inline-block; border: 1px solid #ddd; padding: .5em .2em 0 .5em; margin: 0 .6em .6em 0 }
"""
MARKS = {"as real": "as real", "look": "look", "unknown": "not known"}


@dataclass(frozen=True)
class PageSection:
    """A heading, its figures and its rows of pictures."""

    title: str
    figures: Sequence[PassportFigure] = ()
    pictures: Mapping[str, Sequence[tuple[Path, Pixels]]] = field(default_factory=dict)
    """pictures under a heading of their own; pairs where `paired`"""
    paired: bool = False
    note: str = ""


def page(title: str, about: Sequence[str], sections: Sequence[PageSection]) -> str:
    """The page as HTML."""
    found = [figure for section in sections for figure in section.figures if figure.verdict == "look"]
    summary = "Nothing to look at." if not found else f"{len(found)} to look at: {', '.join(f.name for f in found)}."
    lines = "".join(f"<p>{_text(line)}</p>\n" for line in [*about, summary])
    body = "".join(map(_section, sections))
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{_text(title)}</title>\n'
        f"<style>{STYLE}</style>\n<h1>{_text(title)}</h1>\n{lines}{body}</html>\n"
    )


def _section(section: PageSection) -> str:
    note = f"<p>{_text(section.note)}</p>\n" if section.note else ""
    table = ""
    if section.figures:
        head = "<tr><th>figure</th><th>generated</th><th>real</th><th></th></tr>\n"
        table = f"<table>\n{head}{''.join(map(_row, section.figures))}</table>\n"
    pictures = "".join(
        f"<h3>{_text(name)}</h3>\n{_pictures(shown, section.paired)}\n"
        for name, shown in section.pictures.items()
        if shown
    )
    return f"<h2>{_text(section.title)}</h2>\n{note}{table}{pictures}"


def _row(figure: PassportFigure) -> str:
    name = f"{_text(figure.name)}<small>{_text(figure.says)}</small>"
    mark = f'<span class="mark">{MARKS[figure.verdict]}</span>'
    cells = f'<td>{name}</td><td class="number">{_text(figure.value)}</td><td class="number">{_text(figure.real)}</td>'
    return f'<tr class="{figure.verdict.replace(" ", "-")}">{cells}<td>{mark}</td></tr>\n'


def _pictures(shown: Sequence[tuple[Path, Pixels]], paired: bool) -> str:
    figures = []
    for path, pixels in shown:
        image = f'<img alt="" src="data:image/jpeg;base64,{_jpeg(pixels)}">'
        figures.append(f"<figure>{image}<figcaption>{_text(path.name)}</figcaption></figure>")
    if not paired:
        return "".join(figures)
    return "".join(f'<div class="pair">{a}{b}</div>' for a, b in zip(figures[::2], figures[1::2], strict=True))


def _jpeg(pixels: Pixels) -> str:
    picture = PillowImage.fromarray(pixels)
    picture.thumbnail((SIDE_PX, SIDE_PX))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return base64.b64encode(file.getvalue()).decode()


def _text(text: str) -> str:
    """Escaped; what is no text, as file names may hold, is shown as a question mark."""
    return escape(text.encode("utf-8", "replace").decode())
