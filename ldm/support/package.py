"""The package's version and requirements: from pyproject.toml in a checkout, else from the installed metadata."""

import importlib.metadata
import tomllib
from pathlib import Path
from typing import NamedTuple

NAME = "zoomldm"
PACKAGE = Path(__file__).parents[1]


class Project(NamedTuple):
    """`python` is a specifier such as ">=3.11"; `needs` are requirements, without those of the extras."""

    version: str
    python: str
    needs: list[str]


def project() -> Project:
    """The project's metadata."""
    pyproject = PACKAGE.parent / "pyproject.toml"
    if pyproject.is_file():
        told = tomllib.loads(pyproject.read_text()).get("project", {})
        if told.get("name") == NAME:
            return Project(told["version"], told["requires-python"], told["dependencies"])
    metadata = importlib.metadata.metadata(NAME)
    needs = [text for text in importlib.metadata.requires(NAME) or [] if "extra ==" not in text]
    return Project(metadata["Version"], metadata["Requires-Python"], needs)
