"""The configs that come with the package, found by name or path from any folder.

In a checkout they are the folder `configs` beside `ldm`; in an installed wheel the same files are `ldm/configs`.
"""

from difflib import get_close_matches
from pathlib import Path

from ldm.errors import UserError

PACKAGE = Path(__file__).parents[1]
SUFFIXES = (".yaml", ".yml")


def folder() -> Path:
    """The folder of the bundled configs."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def bundled_file(path: str | Path) -> Path:
    """`path` or, if it does not exist and begins with `configs/`, the bundled file of that name."""
    path = Path(path)
    if path.exists() or path.parts[:1] != ("configs",):
        return path
    found = folder().joinpath(*path.parts[1:])
    return found if found.is_file() else path


def config_file(text: str | Path, kind: str) -> Path:
    """The file that `text` names: a path, or a bundled config by its name.

    `kind` is the part that names omit, "zoomldm" (training) or "data" (preparation): with "data", `histology` is
    data_histology.yaml and `demo` is demo/data.yaml; any bundled file may be named in full, as `demo/cdm`. UserError,
    with the names there are, when there is none.
    """
    path = bundled_file(text)
    if path.is_file() or path.suffix in SUFFIXES or path.is_absolute():
        return path  # errors are reported when it is read
    for name in (path, path.parent / f"{kind}_{path.name}", path / kind):
        found = folder() / f"{name}.yaml"
        if found.is_file() and ".." not in name.parts:
            return found
    names = config_names(kind)
    close = get_close_matches(str(text), names, 1)
    hint = f"did you mean {close[0]}?" if close else f"a path, or one of {', '.join(names)}"
    raise UserError(f"config: {str(text)[:80]} is neither a file nor a bundled config; expected {hint}")


def config_names(kind: str) -> list[str]:
    """Names of the bundled configs of one kind; "zoomldm" includes all other systems."""
    paths = [path.relative_to(folder()).with_suffix("") for path in sorted(folder().rglob("*.yaml"))]
    return [_short(path, kind) for path in paths if path.name.startswith("data") == (kind == "data")]


def _short(path: Path, kind: str) -> str:
    short = path.parent if path.name == kind else path.with_name(path.name.removeprefix(f"{kind}_"))
    return short.as_posix()
