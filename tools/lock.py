"""Make requirements.txt and requirements-dev.txt from the ranges in pyproject.toml, with pip-tools.

Versions are public ones: `2.13.0`, not `2.13.0+cpu`, which only one index has.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILE = (
    "--quiet", "--strip-extras", "--allow-unsafe", "--no-annotate", "--no-header", "--no-emit-find-links",
    "--no-emit-index-url", "--no-emit-trusted-host",
)  # fmt: skip
HEADER = "# {what}, exact. Made by `make lock` from the ranges in pyproject.toml.\n"


def resolve(python: Path, *arguments: str) -> list[str]:
    """Return `name==version` lines for the project, local version labels removed."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pins.txt"
        command = [
            str(python),
            "-m",
            "piptools",
            "compile",
            *COMPILE,
            *arguments,
            "-o",
            str(output),
            str(ROOT / "pyproject.toml"),
        ]
        subprocess.run(command, check=True, cwd=ROOT)
        lines = output.read_text(encoding="utf-8").splitlines()
    return [re.sub(r"\+[\w.]+$", "", line) for line in lines if re.match(r"[\w.-]+==", line)]


def main() -> None:
    """Write both files."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "pip-tools"], check=True)
        needed = resolve(python)
        besides = [line for line in resolve(python, "--extra", "dev") if line not in needed]
    run_text = HEADER.format(what="Everything that running needs") + "\n".join(needed) + "\n"
    dev_text = HEADER.format(what="What tests and checks need besides") + "\n".join(["-r requirements.txt", *besides])
    (ROOT / "requirements.txt").write_text(run_text, encoding="utf-8")
    (ROOT / "requirements-dev.txt").write_text(dev_text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
