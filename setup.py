"""What pyproject.toml cannot say: the top-level folder `configs` is installed as the data of `ldm.configs`."""

from setuptools import find_namespace_packages, find_packages, setup

CONFIGS = ["ldm.configs", *(f"ldm.configs.{name}" for name in find_namespace_packages("configs"))]

setup(
    packages=[*find_packages(include=["ldm*", "data_prep*"]), *CONFIGS],
    package_dir={"ldm.configs": "configs"},
    package_data={"ldm": ["weights/**/*"], **{name: ["*.yaml", "*.csv"] for name in CONFIGS}},
)
