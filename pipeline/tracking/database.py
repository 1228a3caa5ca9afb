"""Databases of MLflow and Optuna: one process at a time creates the tables, and errors do not show passwords.

Both libraries create their tables without a lock, so two commands on an empty database would break each other's schema.
Both store their schema version in a table of the same name, so they cannot share a database.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from filelock import FileLock

CONNECT_SECONDS = 8  # MLflow retries an unreachable database ten times, which takes minutes
LOCK_SECONDS = 90  # creating the tables of either library takes about two
LOCK = 0x70697065  # an arbitrary advisory-lock key that nothing else in such a database uses
MLFLOW_TABLE, OPTUNA_TABLE = "experiments", "studies"


def is_postgresql(url: str) -> bool:
    """Return whether a database URL is PostgreSQL, with any driver."""
    return url.startswith(("postgresql://", "postgresql+"))


def sqlite_path(url: str) -> Path | None:
    """Return the file of a sqlite URL (in which MLflow writes a space as %20), or None for other URLs."""
    return Path(sqlalchemy.make_url(url).database or "") if url.startswith("sqlite:///") else None


@contextmanager
def exclusive_setup(url: str, *, forbidden_table: str) -> Iterator[None]:
    """Hold an advisory lock on a PostgreSQL database while its tables are created; other databases are not locked.

    `forbidden_table` is a table of the other library; the two need separate databases.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The database does not respond in time, or denies access.
        ImportError: The driver is not installed.
        ValueError: The URL is malformed, or the database belongs to the other library.
    """
    if not is_postgresql(url):
        yield
        return
    _check_url(url)
    engine = sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.NullPool, connect_args={"connect_timeout": CONNECT_SECONDS}
    )
    with engine.begin() as connection:  # the lock is released with the transaction, even if this process is killed
        connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
        connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        if sqlalchemy.inspect(connection).has_table(forbidden_table):
            raise ValueError("MLflow and Optuna need separate databases, and this one belongs to the other")
        yield


def prepare_sqlite(path: Path, create_tables: Callable[[], object]) -> None:
    """Create the tables of a sqlite file under a file lock and enable write-ahead logging, once.

    Raises:
        OSError: The lock cannot be acquired, or the file cannot be written.
        sqlite3.Error: The file is not a database.
    """
    if _has_wal(path):
        return
    with FileLock(path.with_name(path.name + ".lock"), timeout=LOCK_SECONDS):
        if not _has_wal(path):
            create_tables()
            with sqlite3.connect(path, timeout=20) as connection:
                connection.execute("PRAGMA journal_mode=WAL")


def _has_wal(path: Path) -> bool:
    if not path.is_file():
        return False
    with sqlite3.connect(path, timeout=20) as connection:
        return bool(connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal")


def _check_url(url: str) -> None:
    """Raise a ValueError that quotes no part of the URL if it would be split at the wrong characters."""
    try:
        valid = "@" not in (sqlalchemy.make_url(url).host or "")
    except (sqlalchemy.exc.ArgumentError, ValueError):
        valid = False
    if not valid:
        raise ValueError("malformed database URL (in a password, write @ as %40 and % as %25)")
