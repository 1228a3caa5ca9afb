"""Check that the study storage is reachable and writable, for `doctor`; leaves it unchanged."""

import uuid
from collections.abc import Iterator

from optuna.exceptions import OptunaError
from optuna.study import StudyDirection
from sqlalchemy.exc import SQLAlchemyError

from pipeline.checks import CheckResult
from pipeline.errors import UserInputError
from pipeline.redaction import first_line
from pipeline.tracking.database import sqlite_path
from pipeline.tracking.store_checks import check_failed, check_new_sqlite
from pipeline.tuning.study import open_storage, storage_url

WHAT = "study storage"


def examine_storage() -> Iterator[CheckResult]:
    """Create a study and delete it; if the sqlite file does not exist, check only that it can be created."""
    url = storage_url()
    path = sqlite_path(url)
    if path is not None and not path.exists():
        yield check_new_sqlite(WHAT, path, created="the first study creates it", variable="PIPELINE_STORAGE")
        return
    try:
        storage = open_storage()
        storage.delete_study(storage.create_new_study([StudyDirection.MAXIMIZE], f"doctor {uuid.uuid4().hex}"))
        yield CheckResult("ok", WHAT, f"{url}: created and deleted a test study")
    except UserInputError as error:
        yield check_failed(WHAT, error)
    except (SQLAlchemyError, OptunaError) as error:
        fix = "Make it writable, or set PIPELINE_STORAGE to another location."
        yield CheckResult("FAIL", WHAT, f"{url} is not writable: {first_line(error)}", fix)
