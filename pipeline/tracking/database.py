"""Databases behind MLflow and Optuna: addresses shown without passwords, tables made by one process at a time.

Both libraries create their tables without a lock, so two commands that meet an empty database would break each
other's; both keep their schema's version in a table of the same name, so that they cannot share a database; and
MLflow tries a database that does not answer ten times, for minutes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from filelock import FileLock

CONNECT_SECONDS = 8
LOCK_SECONDS = 90  # making either's tables takes some two
LOCK = 0x70697065  # any number that nobody else uses in such a database
MLFLOW_TABLE, OPTUNA_TABLE = "experiments", "studies"


def is_postgresql(url: str) -> bool:
    """Whether an address is one of PostgreSQL, whichever driver it names."""
    return url.startswith(("postgresql://", "postgresql+"))


@contextmanager
def exclusive_setup(url: str, *, not_beside: str) -> Iterator[None]:
    """Hold the one lock of a PostgreSQL database under which its tables are made; does nothing for other databases.

    Args:
        url: The database's address.
        not_beside: A table that must not be there: it belongs to the other library.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The database does not answer in time, or refuses us.
        ImportError: Its driver is not installed.
        ValueError: The address cannot be read, or the database is the other library's.
    """
    if not is_postgresql(url):
        yield
        return
    _check_address(url)
    engine = sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.NullPool, connect_args={"connect_timeout": CONNECT_SECONDS}
    )
    with engine.begin() as connection:  # the lock ends with the transaction, whatever becomes of this process
        connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
        connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        if sqlalchemy.inspect(connection).has_table(not_beside):
            raise ValueError("MLflow and Optuna need a database each, and this is the other one's")
        yield


def prepare_sqlite(path: Path, make_tables: Callable[[], object]) -> None:
    """Make the tables of a sqlite file under a lock, then switch its write-ahead log on; later a look suffices.

    Raises:
        OSError: The lock could not be had, or the file not be written.
        sqlite3.Error: It is not a database.
    """
    if _has_wal(path):
        return
    with FileLock(path.with_name(path.name + ".lock"), timeout=LOCK_SECONDS):
        if not _has_wal(path):
            make_tables()
            with sqlite3.connect(path, timeout=20) as connection:
                connection.execute("PRAGMA journal_mode=WAL")


def _has_wal(path: Path) -> bool:
    if not path.is_file():
        return False
    with sqlite3.connect(path, timeout=20) as connection:
        return bool(connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal")


def _check_address(url: str) -> None:
    """Raise ValueError, without any part of the address, where it would be taken apart at the wrong places."""
    try:
        apart = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        apart = None
    if apart is None or "@" in (apart.host or ""):
        raise ValueError("it is not written as an address (in a password, @ is %40 and % is %25)")
