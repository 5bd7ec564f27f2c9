"""Names are unique: no two modules with one base name, no two classes with one name."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
MIRRORS = ("ldm/cli", "ldm/commands", "scripts")
"""one file per command in each: its options, its work, its script"""
FILES = [path for folder in ("ldm", "data_prep", "benchmarks", "scripts") for path in (ROOT / folder).rglob("*.py")]


def test_no_two_modules_have_one_base_name() -> None:
    names = Counter(
        path.name
        for path in FILES
        if path.name not in ("__init__.py", "__main__.py") and path.parent.relative_to(ROOT).as_posix() not in MIRRORS
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_no_two_classes_have_one_name() -> None:
    names = Counter(
        node.name for path in FILES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []
