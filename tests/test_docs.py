"""README and docs: every file, function, link, script and config that they name exists; the README stays short."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
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
    modules = [ROOT / module.replace(".", "/") for module in MODULE.findall(text)]
    assert not [path for path in modules if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file())]


def templates() -> list[str]:
    """Every text in the code, its values written as one control character."""
    found = []
    for path in [*(ROOT / "ldm").rglob("*.py"), *(ROOT / "data_prep").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (item.value if isinstance(item, ast.Constant) else "\0" for item in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def unknown_messages(page: str, texts: list[str]) -> list[str]:
    """Messages in the first column of the tables of `page` that no text of the code holds; `...` stands for values."""
    code = "\n".join(texts)
    cells = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    assert messages
    return [
        message for message in messages if not re.search("[^\n]*?".join(map(re.escape, message.split("..."))), code)
    ]


def test_the_faq_lists_messages_that_the_code_has() -> None:
    page = (ROOT / "docs/faq.md").read_text().partition("## Refusals")[2]
    assert not unknown_messages(page, templates())
    row = "| `is damaged ...; copy it` | |\n| `no such text ...` | |"
    assert unknown_messages(row, ["is damaged \0; copy it"]) == ["no such text ..."]


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 160
    assert not [line for line in lines if len(line) > 120]


def test_the_site_shows_every_page() -> None:
    config = (ROOT / "mkdocs.yml").read_text()
    shown = set(re.findall(r": ([\w/-]+\.md)$", config, re.M))
    outside = {"index.md", "contributing.md", "bundled-model.md"}  # of README, CONTRIBUTING and the weights' README
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    measured = {f"benchmarks/{page.name}" for page in (ROOT / "benchmarks").glob("*.md")}
    assert shown == outside | pages | measured
