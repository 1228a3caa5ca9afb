"""Whether the storage of studies would take one: reached, written to, and put back as it was."""

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
    """Make a study and delete it again."""
    url = storage_url()
    path = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
    if path is not None and not path.exists():
        why = unwritable_reason(path.parent)
        fix = "Make the folder writable, or have PIPELINE_STORAGE name another place."
        made = f"{path} is not there yet; the first study makes it"
        yield (
            CheckResult("FAIL", WHAT, f"{path} cannot be made: {why}", fix) if why else CheckResult("note", WHAT, made)
        )
        return
    try:
        storage = open_storage()
        study = storage.create_new_study([StudyDirection.MAXIMIZE], f"doctor {uuid.uuid4().hex}")
        storage.delete_study(study)
    except UserInputError as error:
        fault = error.faults[0]
        yield CheckResult("FAIL", WHAT, f"{fault.name}={fault.value} {fault.allowed}", fault.remedy)
    except (SQLAlchemyError, OptunaError) as error:
        why = str(error).splitlines()[0]
        fix = "Make it writable for you, or have PIPELINE_STORAGE name another."
        yield CheckResult("FAIL", WHAT, f"{url} can be read and not written: {why}", fix)
    else:
        yield CheckResult("ok", WHAT, f"{url}: a study was made and deleted")
