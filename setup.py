"""Adds the plans in `plans/` to the package as `pipeline.plans`; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["pipeline*"]), "pipeline.plans"],
    package_dir={"pipeline.plans": "plans"},
    package_data={"pipeline.plans": ["*.yaml"], "pipeline.report": ["templates/*"]},
)
