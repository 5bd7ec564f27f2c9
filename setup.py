"""What pyproject.toml cannot say: the top-level folder `configs` is installed as the data of `ldm.configs`."""

from setuptools import find_namespace_packages, setup

CONFIGS = ["ldm.configs", *(f"ldm.configs.{name}" for name in find_namespace_packages("configs"))]
PACKAGES = find_namespace_packages(include=["ldm*", "data_prep*"], exclude=["*__pycache__*"])

setup(
    packages=[*PACKAGES, *CONFIGS],
    package_dir={"ldm.configs": "configs"},
    package_data={"ldm": ["weights/**/*"], **{name: ["*.yaml", "*.csv"] for name in CONFIGS}},
)
