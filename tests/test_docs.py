"""README and docs: every file, function, link, script and config that they name exists; the README stays short."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = re.compile(r"`([\w/]+\.py)::([\w.]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"\b(?:scripts|data_prep|configs|benchmarks|ldm)/[\w/.-]+\.(?:py|yaml|md|csv)\b")
MODULE = re.compile(r"python -m (benchmarks\.\w+)")


@cache
def definitions(path: Path) -> set[str]:
    """Functions, classes and methods (`Class.method`) at the top of a module."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return found


def absent(text: str) -> list[str]:
    """What `text` names as file::function and does not exist."""
    return [
        f"{file}::{name}"
        for file, name in NAMED.findall(text)
        if not (ROOT / file).is_file() or name not in definitions(ROOT / file)
    ]


def test_every_function_named_by_the_page_of_the_paper_exists() -> None:
    text = (ROOT / "docs/paper.md").read_text()
    assert len(NAMED.findall(text)) > 50
    assert not absent(text)
    assert absent("`ldm/scales.py::Ladder`, `ldm/scales.py::Lader`, `ldm/no.py::f`, `ldm/scales.py::Ladder.no`") == [
        "ldm/scales.py::Lader",
        "ldm/no.py::f",
        "ldm/scales.py::Ladder.no",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_files_named_by_a_page_exist(page: Path) -> None:
    text = page.read_text()
    links = [link.partition("#")[0] for link in LINK.findall(text) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]
    assert not [name for name in FILE.findall(text) if not (ROOT / name).is_file()]
    modules = [module.replace(".", "/") + ".py" for module in MODULE.findall(text)]
    assert not [module for module in modules if not (ROOT / module).is_file()]
