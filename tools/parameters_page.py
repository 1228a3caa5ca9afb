"""Write docs/parameters.md from the parameter records: `python -m tools.parameters_page`."""

from __future__ import annotations

from pathlib import Path

from pipeline.params import ENTRY_POINTS, StageParams, spell

PAGE = Path(__file__).resolve().parent.parent / "docs" / "parameters.md"
HEAD = """# Parameters

Made by `make docs` from `pipeline/params/`; a test keeps it true. Every parameter is passed as
`mlflow run . -e ENTRY_POINT -P name=value` or `python -m pipeline ENTRY_POINT --name value`; underscores and hyphens
are the same. `auto` is replaced by what it comes to, and that is what is logged.
"""


def table(kind: type[StageParams]) -> str:
    """Return one entry point's section."""
    summary = (kind.__doc__ or "").strip().splitlines()[0]
    lines = [
        f"\n## `{kind.entry_point}`\n",
        f"{summary}\n",
        "| parameter | default | allowed | what it is |",
        "|---|---|---|---|",
    ]
    for name, field in kind.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        default = spell(field.default) or "(none)"
        unit = f" ({extra['unit']})" if extra["unit"] else ""
        lines.append(f"| `{name}` | `{default}` | {extra['allowed']} | {field.description}{unit} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(table(kind) for kind in ENTRY_POINTS.values())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
