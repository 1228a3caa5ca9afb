"""Environment check of the study storage: reachable and writable; leaves it unchanged."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

from optuna.exceptions import OptunaError
from optuna.study import StudyDirection
from sqlalchemy.exc import SQLAlchemyError

from pipeline.checks import CheckResult, unwritable_reason
from pipeline.errors import UserInputError
from pipeline.tuning.study import open_storage, storage_url

WHAT = "study storage"


def examine_storage() -> Iterator[CheckResult]:
    """Create a study and delete it; if the sqlite file does not exist, check only that it can be created."""
    url = storage_url()
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not path.exists():
        if reason := unwritable_reason(path.parent):
            fix = "Make the folder writable, or set PIPELINE_STORAGE to another location."
            yield CheckResult("FAIL", WHAT, f"{path} cannot be created: {reason}", fix)
        else:
            yield CheckResult("note", WHAT, f"{path} does not exist yet; the first study creates it")
        return
    try:
        storage = open_storage()
        storage.delete_study(storage.create_new_study([StudyDirection.MAXIMIZE], f"doctor {uuid.uuid4().hex}"))
        yield CheckResult("ok", WHAT, f"{url}: created and deleted a test study")
    except UserInputError as error:
        fault = error.faults[0]
        yield CheckResult("FAIL", WHAT, f"{fault.name}={fault.value} {fault.allowed}", fault.remedy)
    except (SQLAlchemyError, OptunaError) as error:
        fix = "Make it writable, or set PIPELINE_STORAGE to another location."
        yield CheckResult("FAIL", WHAT, f"{url} is not writable: {str(error).splitlines()[0]}", fix)
