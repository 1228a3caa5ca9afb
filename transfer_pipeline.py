"""The command `transfer-pipeline` of an installed package.

The package's import name, `pipeline`, is a common one. This module, whose name is not, checks before anything is
imported that no other package of that name comes first.
"""

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Run the command line; exit with code 2 if another package named `pipeline` hides this one."""
    spec = importlib.util.find_spec("pipeline")
    found = Path(spec.origin) if spec is not None and spec.origin else None
    if found is None or not (found.parent / "params" / "entry_points.py").is_file():
        where = found or "a folder without __init__.py"
        print(
            f"error: pipeline={where}: another package with this name hides that of mlflow-transfer-pipeline. "
            "Uninstall it or remove it from PYTHONPATH, or install this project into a virtual environment of its own.",
            file=sys.stderr,
        )
        sys.exit(2)
    from pipeline.__main__ import main as run

    run("transfer-pipeline")


if __name__ == "__main__":
    main()
