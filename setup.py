"""What pyproject.toml cannot say: the top-level folder `configs` is installed as the data of `ldm.configs`, and a wheel
holds OpenSeadragon for `zoomldm view`; without npm it is built without, and the command fetches it at first use.
"""

import sys
from pathlib import Path
from typing import Any

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))
from ldm.errors import UserError
from ldm.view.openseadragon import library

CONFIGS = ["ldm.configs", *(f"ldm.configs.{name}" for name in find_namespace_packages("configs"))]
PACKAGES = find_namespace_packages(include=["ldm*", "data_prep*"], exclude=["*__pycache__*"])


class BuildWithLibrary(build_py):
    """Adds OpenSeadragon to the page of `zoomldm view`, but in a checkout that is installed as it is."""

    def run(self, *args: Any) -> None:
        super().run()
        if self.editable_mode:
            return
        try:
            for name, content in library().items():
                target = Path(self.build_lib, "ldm", "view", "page", name)
                self.mkpath(str(target.parent))
                target.write_bytes(content)
        except UserError as error:
            print(f"warning: built without OpenSeadragon: {error}", file=sys.stderr)


setup(
    cmdclass={"build_py": BuildWithLibrary},
    packages=[*PACKAGES, *CONFIGS],
    package_dir={"ldm.configs": "configs"},
    package_data={
        "ldm": ["weights/**/*", "*/page/*"],
        **{name: ["*.yaml", "*.csv"] for name in CONFIGS},
    },
)
