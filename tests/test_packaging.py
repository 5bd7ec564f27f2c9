"""The declared dependencies are those that are imported, and only public names of them are used."""

import ast
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import yaml
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

from ldm.support.package import project

ROOT = Path(__file__).parents[1]
SOURCES = [*(path for name in ("ldm", "data_prep", "scripts", "benchmarks") for path in (ROOT / name).rglob("*.py"))]
SOURCES += [ROOT / "main.py"]
OURS = {"ldm", "data_prep", "scripts", "benchmarks", "main", "tests"}
OPTIONAL = {"conch", "diffusers"}
"""CONCH's own package, and an extra; told in one line where they are missing"""
PRIVATE = {"torchmetrics.functional.image.lpips._LPIPS", "timm.optim.muon._COEFFICIENTS"}
"""names without a public counterpart, whose use a test compares: test_fidelity.py, test_precision.py"""
DOCUMENTED = ("torch._foreach_", "torch._dynamo", "torch._C")
"""begin names that PyTorch documents, or that have no public counterpart: test_precision.py, test_compiled.py"""


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
    return {name for name in used if re.search(r"\._[^_]", name) and not name.startswith(DOCUMENTED)}


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
    assert hasattr(_TrainingEpochLoop(None), "batch_progress"), "fix CohortData.train_dataloader: batch k depends on it"


def test_hosted_ci_runs_what_must_pass_on_every_python_that_is_promised() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["run"]
    assert {"run": ".ci/run"} in job["steps"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    versions = job["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13", "3.14"]
    assert project().python == f">={versions[0]}"


def test_the_citation_names_the_papers_authors_in_their_order() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    names = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in cited["authors"])
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"{{{names}}}" in readme
    assert cited["title"].removeprefix("ZoomLDM") in readme


def test_the_changelog_has_an_entry_for_the_version() -> None:
    assert re.search(rf"^## {re.escape(project().version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_the_version_stands_in_one_place() -> None:
    stated = f'"{project().version}"'
    holders = [str(path.relative_to(ROOT)) for path in (*SOURCES, ROOT / "setup.py") if stated in path.read_text()]
    assert holders == []


def test_every_other_yaml_of_the_project_is_read() -> None:
    files = [ROOT / ".pre-commit-config.yaml", *(ROOT / ".github").rglob("*.yml")]
    assert len(files) >= 4
    assert all(isinstance(yaml.safe_load(path.read_text()), dict) for path in files)
