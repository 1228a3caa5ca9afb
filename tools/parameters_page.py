"""Write docs/parameters.md from the parameter records: `python -m tools.parameters_page`."""

from __future__ import annotations

from pathlib import Path

from pipeline.params import ENTRY_POINTS, StageParams
from pipeline.params.base import describe_default, field_info

PAGE = Path(__file__).resolve().parent.parent / "docs" / "parameters.md"
HEAD = """# Parameters

Generated from `pipeline/params/` by `make docs`. Pass a parameter as `mlflow run . -e ENTRY_POINT -P name=value` or
`python -m pipeline ENTRY_POINT --name value`; names may be spelled with underscores or hyphens. `auto` is resolved
when the stage starts, and MLflow shows the resolved value.
"""


def table(kind: type[StageParams]) -> str:
    """Return the section of one entry point."""
    summary = (kind.__doc__ or "").strip().splitlines()[0]
    lines = [
        f"\n## `{kind.entry_point}`\n",
        f"{summary}\n",
        "| parameter | default | allowed | description |",
        "|---|---|---|---|",
    ]
    for name, field in kind.model_fields.items():
        info = field_info(field)
        default = describe_default(kind, name)
        text = str(field.description)
        unit = f" ({info['unit']})" if info["unit"] not in text.lower() else ""
        lines.append(f"| `{name}` | `{default}` | {info['allowed']} | {text}{unit} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(table(kind) for kind in ENTRY_POINTS.values())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
