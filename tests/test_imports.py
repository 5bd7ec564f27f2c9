"""Imports point down: the order of the rooms in the README's map, checked."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
GROUND = {
    f"ldm.{name}"
    for name in (
        *("arguments", "cache", "csv_table", "errors", "files", "machines", "precision", "processes", "schema"),
        "run_config",
    )
}
ALLOWED: dict[str, set[str]] = {
    "ldm.scales": set(),
    "ldm.config": set(),
    "ldm.batch": set(),
    "ldm.tokens": set(),
    "ldm.io": set(),
    "ldm.tiff": {"ldm.io"},
    "ldm.rasters": {"ldm.io"},
    "ldm.tiff_pages": {"ldm.io"},
    "ldm.picture_files": {"ldm.io", "ldm.rasters", "ldm.tiff_pages"},
    "ldm.pictures": {"ldm.io", "ldm.tiff", "ldm.rasters", "ldm.picture_files"},
    "ldm.diffusion": {"ldm.diffusion"},
    "ldm.layers": {"ldm.layers"},
    "ldm.networks": {"ldm.networks", "ldm.layers", "ldm.scales"},
    "ldm.data": {"ldm.data", "ldm.scales", "ldm.batch", "ldm.tokens"},
    "ldm.sampling": {"ldm.sampling", "ldm.diffusion", "ldm.scales", "ldm.tokens"},
    "ldm.evaluation": {"ldm.evaluation", "ldm.diffusion", "ldm.scales", "ldm.checkpoint"},
    "ldm.training": {"ldm.training", "ldm.diffusion", "ldm.batch", "ldm.sampling"},
    "ldm.checkpoint": {"ldm.config"},
    "ldm.training_config": {"ldm.config"},
    "ldm.sources": {"ldm.checkpoint", "ldm.config"},
}
"""what each room may import besides the ground floor; those UPSTAIRS stand above all of these"""
UPSTAIRS = {
    "ldm.cdm",
    "ldm.pipeline",
    "ldm.inferred",
    "ldm.conditions",
    "ldm.joint",
    "ldm.control",
    "ldm.resume",
    "ldm.pictures",
    "ldm.superres",
    "ldm.features",
    "ldm.slides",
    "ldm.runs",
    "ldm.doctor",
    "ldm.protocols",
    "ldm.cli",
    "ldm.commands",
}
OUTSIDE = {
    "data_prep": {
        "data_prep",
        "ldm.data.cohort",
        "ldm.data.h5",
        "ldm.data.ids",
        "ldm.data.dataset",
        "ldm.data.slide_writer",
        "ldm.data.splits",
        "ldm.scales",
        "ldm.config",
        "ldm.pipeline",
        "ldm.io",
        "ldm.tiff",
        "ldm.rasters",
        "ldm.tiff_pages",
        "ldm.picture_files",
        "ldm.checkpoint",
        "ldm.evaluation",
    }
}


def room(module: str, rooms: set[str]) -> str | None:
    return next((name for name in rooms if module == name or module.startswith(f"{name}.")), None)


def imports(path: Path) -> set[str]:
    """The modules of ours that a file imports, at any depth of nesting."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("ldm", "data_prep", "scripts", "main")}


def modules(package: str) -> dict[str, Path]:
    files = (ROOT / package).rglob("*.py")
    return {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in files}


def test_every_import_points_down() -> None:
    wrong = []
    for module, path in modules("ldm").items():
        if module in GROUND | {"ldm", "ldm.weights"} or room(module, UPSTAIRS):
            continue
        name = room(module, set(ALLOWED))
        assert name is not None, f"{module} stands in no room"
        wrong += [f"{module} -> {used}" for used in imports(path) if not room(used, ALLOWED[name] | GROUND)]
    for package, allowed in OUTSIDE.items():
        for module, path in modules(package).items():
            wrong += [f"{module} -> {used}" for used in imports(path) if not room(used, allowed | GROUND)]
    assert wrong == []


def test_nobody_imports_the_commands() -> None:
    users = {**modules("ldm"), **modules("data_prep")}.values()
    assert [path for path in users if any(room(used, {"main", "scripts"}) for used in imports(path))] == []
