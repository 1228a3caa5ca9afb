"""MLflow's tables, written into a sqlite file in one transaction: a process killed on the way leaves all or none.

MLflow itself makes them statement by statement, by some sixty migrations, and cannot continue where a killed process
stopped ("table ... already exists"). So the tables are made in memory here and copied. A file that holds no row yet,
because MLflow's own process (`mlflow run`) was killed while it made the tables, is made anew the same way.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import psutil
import sqlalchemy
from mlflow.store.db.utils import _initialize_tables  # what MLflow calls on an empty database, and `mlflow db upgrade`

FILLED_BY_MIGRATIONS = {"alembic_version", "workspaces"}
MARK = "experiments"  # MLflow's first table
OTHERS_SECONDS = 60  # making the tables takes MLflow some three


def write_schema(path: Path) -> None:
    """Give a sqlite file that holds no row MLflow's whole schema; leave any other file as it is.

    Raises:
        OSError: The file cannot be looked at.
        sqlite3.Error: It cannot be written, or is not a database.
    """
    with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as connection:
        if not _holds_nothing(connection):
            return
        statements = _schema()
        if _tables(connection):
            _wait_for_others(path)
        connection.execute("BEGIN IMMEDIATE")
        if _holds_nothing(connection):
            for table in _tables(connection):
                connection.execute(f'DROP TABLE "{table}"')
            for statement in statements:
                connection.execute(statement)
        connection.execute("COMMIT")


def _schema() -> list[str]:
    """Return the statements that make MLflow's tables as its migrations leave them."""
    engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.StaticPool)
    _initialize_tables(engine)  # type: ignore[no-untyped-call]
    with engine.connect() as connection:
        made = connection.connection.driver_connection
        assert isinstance(made, sqlite3.Connection)
        return [statement for statement in made.iterdump() if statement not in ("BEGIN TRANSACTION;", "COMMIT;")]


def _tables(connection: sqlite3.Connection) -> list[str]:
    wanted = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    return [name for (name,) in connection.execute(wanted)]


def _holds_nothing(connection: sqlite3.Connection) -> bool:
    """Whether there is no table, or there are MLflow's without a row: the first that it writes is an experiment."""
    tables = _tables(connection)
    if tables and MARK not in tables:
        return False
    filled = (connection.execute(f'SELECT EXISTS (SELECT 1 FROM "{name}")').fetchone()[0] for name in
              tables if name not in FILLED_BY_MIGRATIONS)  # fmt: skip
    return not any(filled)


def _wait_for_others(path: Path) -> None:
    """Wait while another process has the file open: it may be making the tables, and MLflow takes no lock."""
    deadline = time.monotonic() + OTHERS_SECONDS
    while _open_elsewhere(path.resolve()) and time.monotonic() < deadline:
        time.sleep(0.2)


def _open_elsewhere(path: Path) -> bool:
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(file.path == str(path) for file in process.open_files()):
                return True
        except psutil.Error:  # it has ended, or is not ours to look into
            continue
    return False
