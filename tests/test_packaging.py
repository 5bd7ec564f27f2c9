"""What the package says it needs is what it imports; it stands on public names."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

ROOT = Path(__file__).parents[1]
SOURCES = [*(path for name in ("ldm", "data_prep", "scripts", "benchmarks") for path in (ROOT / name).rglob("*.py"))]
SOURCES += [ROOT / "main.py"]
OURS = {"ldm", "data_prep", "scripts", "benchmarks", "main", "tests"}
OPTIONAL = {"conch", "diffusers"}
"""CONCH's own package, and an extra; told in one line where they are missing"""
PRIVATE = {"torchmetrics.functional.image.lpips._LPIPS"}
"""names without a public counterpart that takes local weights; tests/evaluation/metrics/test_fidelity.py uses them"""


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import of a file, at any depth; the name is "" where the module is meant."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def foreign(path: Path) -> set[str]:
    """Every imported name that is neither ours nor Python's."""
    found = {f"{module}.{name}" if name else module for module, name in imports(path)}
    return {name for name in found if name.split(".")[0] not in OURS | OPTIONAL | set(sys.stdlib_module_names)}


def private(path: Path) -> set[str]:
    """Foreign names with a part that starts with one underscore, imported or looked up on a module."""
    used = foreign(path)
    modules = {name.split(".")[0] for name in used}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and re.fullmatch(r"[\w.]+", text := ast.unparse(node)):
            used |= {text} if text.split(".")[0] in modules else set()
    return {name for name in used if re.search(r"\._[^_]", name)}


def test_everything_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=\[ ;]", item)[0].lower().replace("_", "-") for item in project["dependencies"]}
    providers = packages_distributions()
    lacking = {}
    for path in SOURCES:
        for name in {name.split(".")[0] for name in foreign(path)}:
            if not declared & {provider.lower().replace("_", "-") for provider in providers.get(name, [])}:
                lacking[name] = str(path.relative_to(ROOT))
    assert lacking == {}


def test_private_names_of_other_packages_are_not_used() -> None:
    used = {str(path.relative_to(ROOT)): private(path) - PRIVATE for path in SOURCES}
    assert {path: names for path, names in used.items() if names} == {}


def test_lightning_still_counts_batches_where_resuming_looks() -> None:
    assert hasattr(_TrainingEpochLoop(None), "batch_progress"), (
        "mend CohortData.train_dataloader: batch k depends on it"
    )
