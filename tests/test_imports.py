"""Imports point down: every module belongs to one layer, layers are ordered, and none imports from a higher one."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = [
    *("ldm.errors", "ldm.support", "ldm.scales", "ldm.config", "ldm.images", "ldm.layers", "ldm.networks"),
    *(
        "ldm.checkpoint",
        "ldm.diffusion",
        "ldm.data",
        "ldm.multiscale",
        "ldm.endless",
        "ldm.model_card",
        "ldm.hub",
        "ldm.conditioning_model",
        "ldm.preview_model",
    ),
    *("ldm.latent_diffusion", "ldm.pipeline", "ldm.model_slides"),
    *("ldm.trained_superres", "ldm.controlnet_superres", "ldm.superres_ldm"),
    *("ldm.encoders", "ldm.evaluation", "ldm.training", "ldm.doctor", "ldm.demo", "data_prep"),
    *("ldm.view", "ldm.explore", "ldm.commands", "ldm.cli", "main", "scripts", "benchmarks"),
]
"""layers from the lowest: each may import itself and those before it"""
GROUND = {"ldm.errors", "ldm.support", "ldm.scales", "ldm.config.schema", "ldm.config.objects"}
ONLY: dict[str, set[str]] = {
    "ldm.scales": set(),
    "ldm.config": set(),
    "ldm.images": set(),
    "ldm.layers": set(),
    "ldm.networks": {"ldm.layers"},
    "ldm.checkpoint": set(),
    "ldm.diffusion": set(),
    "ldm.data": set(),
    "ldm.multiscale": {"ldm.diffusion", "ldm.data", "ldm.images", "ldm.checkpoint"},
    "ldm.endless": {"ldm.diffusion", "ldm.data", "ldm.images", "ldm.multiscale"},
    "ldm.encoders": {"ldm.checkpoint", "ldm.images"},
    "ldm.demo": {"ldm.images"},
}
"""layers that may import only these, and the lowest layers"""
PACKAGES = ("ldm", "data_prep", "scripts", "benchmarks")


def sources(root: Path = ROOT) -> dict[str, str]:
    """The text of every module, by name."""
    files = [root / "main.py", *(path for package in PACKAGES for path in sorted((root / package).rglob("*.py")))]
    return {_name(path.relative_to(root)): path.read_text() for path in files}


def _name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports(module: str, text: str, known: set[str]) -> set[str]:
    """The modules of ours, tests among them, that a module imports, wherever in it and in whatever way."""
    package = module if any(name.startswith(f"{module}.") for name in known) else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            inside = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in known else base for name in inside}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in known:
            found |= {node.value} if _imported_by_name(text) else set()
    return {name for name in found if name.split(".")[0] in (*PACKAGES, "main", "tests")}


def _imported_by_name(text: str) -> bool:
    return "import_module(" in text or "__import__(" in text


def layer(module: str) -> str | None:
    return next((name for name in ORDER if module == name or module.startswith(f"{name}.")), None)


def wrong(module: str, text: str, known: set[str]) -> list[str]:
    """The forbidden imports of a module: of higher layers, or of others that its layer may not import."""
    own = layer(module)
    assert own is not None or module in ("ldm", "ldm.weights"), f"{module} belongs to no layer: add it to ORDER"
    found = []
    for used in imports(module, text, known):
        other = layer(used)
        if own is None or other is None:
            found += [used] if used != "ldm" else []
        elif other != own:
            below = ORDER.index(other) < ORDER.index(own)
            allowed = any(f"{used}.".startswith(f"{name}.") for name in ONLY.get(own, set(ORDER)) | GROUND)
            found += [] if below and allowed else [used]
    return [f"{module} -> {used}" for used in sorted(found)]


def test_every_import_points_down() -> None:
    texts = sources()
    assert [line for module, text in texts.items() for line in wrong(module, text, set(texts))] == []


def test_every_layer_exists_once() -> None:
    layers = [layer(module) for module in sources()]
    assert set(ORDER) == {name for name in layers if name}
    assert len(ORDER) == len(set(ORDER))


def test_modules_import_each_other_in_no_circle() -> None:
    texts = sources()
    TopologicalSorter({name: imports(name, text, set(texts)) - {name} for name, text in texts.items()}).prepare()


FORMS = (
    "import {used}",
    "import {used} as x",
    "from {parent} import {leaf}",
    "from {used} import x",
    "def f():\n    from {used} import x",
    "if True:\n    import {used}",
    "try:\n    import {used}\nexcept ImportError:\n    pass",
    "from importlib import import_module\nx = import_module('{used}')",
)


@pytest.mark.parametrize("form", FORMS)
def test_an_upward_import_planted_in_any_module_is_found(form: str) -> None:
    texts = sources()
    first = {name: min(module for module in texts if layer(module) == name) for name in ORDER}
    for module, text in texts.items():
        own = layer(module)
        if own is None or own == ORDER[-1]:
            continue
        used = first[ORDER[ORDER.index(own) + 1]]
        parent, _, leaf = used.rpartition(".")
        if not parent and form.startswith("from {parent}"):
            continue
        planted = form.format(used=used, parent=parent, leaf=leaf)
        assert f"{module} -> {used}" in wrong(module, f"{text}\n{planted}\n", set(texts)), (module, planted)


@pytest.mark.parametrize("form", FORMS)
def test_an_import_of_the_tests_planted_in_a_benchmark_is_found(form: str) -> None:
    used, parent, leaf = "tests.conftest", "tests", "conftest"
    planted = form.format(used=used, parent=parent, leaf=leaf)
    assert wrong("benchmarks.threads", planted, {*sources(), used}) == [f"benchmarks.threads -> {used}"]


def test_a_relative_import_is_seen() -> None:
    known = set(sources())
    assert imports("ldm.multiscale.windows", "from ..training import base", known) == {"ldm.training.base"}
    assert imports("ldm.multiscale", "from . import windows", known) == {"ldm.multiscale.windows"}
    assert imports("ldm.multiscale.windows", "from .. import training", known) == {"ldm.training"}
