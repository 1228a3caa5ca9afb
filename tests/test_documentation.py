"""What the documents say about commands is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.params import MainParams, parse_params
from pipeline.params.target import NOT_FOR_SOLVED_HEADS
from pipeline.plan.loader import load_plan
from pipeline.stages.main import plan_overrides
from pipeline.stages.plan_data import arm_params, fit_plan
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
STEP = re.compile(r"^mlflow run \. --env-manager local -e (\w+) (.+)$", re.MULTILINE)


def test_readme_steps_are_arms_of_the_default_plan() -> None:
    plan = fit_plan(load_plan("assignments", plan_overrides(MainParams(dataset="digits"))), built_in=True)
    commands = STEP.findall(README)
    assert [stage for stage, _ in commands] == ["train_base", "transfer", "transfer"]
    for (_, options), name in zip(commands, ("plain", "four_frozen", "scratch"), strict=True):
        arm = plan.arms[name]
        given = dict(option.split("=", 1) for option in re.findall(r"-P (\S+)", options))
        params, expected = parse_params(arm.kind, {**given, "dataset": "digits"}).logged(), arm_params(arm).logged()
        assert params.pop("classes") in ("auto", expected.pop("classes"))
        assert params.pop("base", "auto") == "auto"
        expected.pop("base", None)
        unused = NOT_FOR_SOLVED_HEADS if params.get("head_solver") == "convex" else ()
        assert [name for name in expected if params[name] != expected[name] and name not in unused] == []


@pytest.mark.parametrize(
    "page", sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]), ids=lambda page: page.name
)
def test_links_point_to_files_that_exist(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_fits_two_screens() -> None:
    assert len(README.splitlines()) <= 90
    assert README.index("make run") < README.index("make test") < README.index("pip install .")
