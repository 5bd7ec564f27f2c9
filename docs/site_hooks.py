"""MkDocs hooks: pages of the site that lie outside docs/, and links between pages as they stand in the repository."""

import re
from os.path import relpath
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ADDED = {
    ROOT / "README.md": "index.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "ldm/weights/README.md": "bundled-model.md",
    ROOT / "ldm/weights/demo/samples.jpg": "pictures/bundled_model.jpg",
    **{path: f"benchmarks/{path.name}" for path in sorted((ROOT / "benchmarks").glob("*.md"))},
}
"""file in the repository -> its place in the site"""
LINK = re.compile(r"(?<!!)\[(?P<text>[^]\n]*)\]\((?P<to>[^)\s]+)\)|!\[(?P<alt>[^]\n]*)\]\((?P<image>[^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    for source, place in ADDED.items():
        files.append(File.generated(config, place, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    source = Path(page.file.abs_src_path)
    return linked(markdown, source, ADDED.get(source) or source.relative_to(DOCS).as_posix())


def linked(markdown: str, source: Path, place: str) -> str:
    """Links of the file `source`, which is the page `place`, for the site; those to files outside it become text."""

    def link(match: re.Match[str]) -> str:
        to = match["to"] or match["image"]
        path, _, anchor = to.partition("#")
        if "://" in to or not path:
            return match[0]
        target = (source.parent / path).resolve()
        inside = ADDED.get(target) or (target.relative_to(DOCS).as_posix() if target.is_relative_to(DOCS) else None)
        if inside is None:
            return match["text"] or match["alt"]
        there = relpath(inside, Path(place).parent) + (f"#{anchor}" if anchor else "")
        return f"[{match['text']}]({there})" if match["image"] is None else f"![{match['alt']}]({there})"

    return LINK.sub(link, markdown)
