"""Create MLflow's tables in a sqlite file in one transaction, so that a killed process leaves all of them or none.

MLflow creates them with some sixty migrations and cannot resume after a kill ("table ... already exists"). So they are
created in memory here and copied. A file without rows, left by an `mlflow run` that was killed meanwhile, is
recreated the same way.
"""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import psutil
import sqlalchemy
from mlflow.store.db.utils import _initialize_tables  # as called by MLflow on an empty database and `mlflow db upgrade`

from pipeline.tracking.database import MLFLOW_TABLE

FILLED_BY_MIGRATIONS = {"alembic_version", "workspaces"}
CREATION_LIMIT_SECONDS = 60  # MLflow takes about three seconds to create the tables


def write_schema(path: Path) -> None:
    """Write MLflow's whole schema to a sqlite file that contains no row; leave any other file unchanged.

    Raises:
        OSError: The file cannot be accessed.
        sqlite3.Error: The file cannot be written, or is not a database.
    """
    with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as connection:
        if not _is_empty(connection):
            return
        statements = _schema()
        if _tables(connection):
            _wait_until_closed(path)
        connection.execute("BEGIN IMMEDIATE")
        if _is_empty(connection):
            for table in _tables(connection):
                connection.execute(f'DROP TABLE "{table}"')
            for statement in statements:
                connection.execute(statement)
        connection.execute("COMMIT")


def _schema() -> list[str]:
    """Return the SQL statements that create MLflow's tables as its migrations leave them."""
    engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.StaticPool)
    _initialize_tables(engine)  # type: ignore[no-untyped-call]
    with engine.connect() as connection:
        database = connection.connection.driver_connection
        assert isinstance(database, sqlite3.Connection)
        return [statement for statement in database.iterdump() if statement not in ("BEGIN TRANSACTION;", "COMMIT;")]


def _tables(connection: sqlite3.Connection) -> list[str]:
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    return [name for (name,) in connection.execute(query)]


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Return whether there are no tables, or only MLflow's tables without any row."""
    tables = _tables(connection)
    if tables and MLFLOW_TABLE not in tables:
        return False
    filled = (
        connection.execute(f'SELECT EXISTS (SELECT 1 FROM "{name}")').fetchone()[0]
        for name in tables
        if name not in FILLED_BY_MIGRATIONS
    )
    return not any(filled)


def _wait_until_closed(path: Path) -> None:
    """Wait while another process has the file open: it may be creating the tables, and MLflow takes no lock."""
    deadline = time.monotonic() + CREATION_LIMIT_SECONDS
    while _open_elsewhere(path.resolve()) and time.monotonic() < deadline:
        time.sleep(0.2)


def _open_elsewhere(path: Path) -> bool:
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(file.path == str(path) for file in process.open_files()):
                return True
        except psutil.Error:  # it has exited, or belongs to another user
            continue
    return False
