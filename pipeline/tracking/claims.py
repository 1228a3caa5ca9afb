"""Claims: which process runs the step with a cache key, so that several commands share work instead of duplicating it.

The workers of a study claim its tasks in the same way (`tuning.tasks`).

MLflow has no atomic update, so claims are rows of a table in the SQL database of `PIPELINE_STORAGE`, else in a sqlite
file in the local state folder. A claim is a lease, timed by the database's clock and renewed by a thread of its
holder. Taking over a claim increments its token; the previous holder checks the token before each upload.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import threading
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy
from sqlalchemy import Column, Float, Integer, MetaData, String, Table, insert, select, text, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from pipeline.errors import invalid
from pipeline.redaction import first_line, without_password
from pipeline.runtime import process_identity, process_lives
from pipeline.state_dir import state_folder
from pipeline.tracking.database import (
    CONNECT_SECONDS,
    MLFLOW_TABLE,
    exclusive_setup,
    is_postgresql,
    prepare_sqlite,
    sqlite_path,
)

DEFAULT_LEASE_SECONDS = 60.0
CLAIMS = Table(
    "pipeline_claims",
    MetaData(),
    Column("claim_key", String(64), primary_key=True),
    Column("token", Integer, nullable=False),  # increases with each holder
    Column("owner", String(250), nullable=False),  # process of the holder, see `runtime.process_identity`
    Column("host", String(250), nullable=False),
    Column("run_id", String(32), nullable=False),  # its MLflow run, or that of an earlier holder, or empty
    Column("expires", Float, nullable=False),  # database clock, in s since 1970; 0: released
)
CLOCKS = {  # seconds since 1970 by the database's clock
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch from clock_timestamp())",
    "mysql": "unix_timestamp(now(6))",
}


class ClaimedElsewhereError(RuntimeError):
    """Another process runs this step."""

    def __init__(self, key: str, owner: str, host: str):
        super().__init__(f"process {owner.split()[0]} on {host} runs it")
        self.key = key


class ClaimLostError(RuntimeError):
    """The lease of this process expired, and another process runs the step now."""

    def __init__(self, key: str):
        super().__init__("its lease expired, and another process runs it")
        self.key = key


def lease_seconds() -> float:
    """Return how long a claim lasts without being renewed: `$PIPELINE_LEASE_SECONDS`, else a minute."""
    return float(os.environ.get("PIPELINE_LEASE_SECONDS") or DEFAULT_LEASE_SECONDS)


def claims_url() -> str:
    """Return the database of the claims; a sqlite storage of studies is not used, since it has many writers."""
    url = os.environ.get("PIPELINE_STORAGE") or ""
    return url if url and not url.startswith("sqlite") else f"sqlite:///{(state_folder() / 'claims.db').absolute()}"


def open_claims(url: str = "") -> Claims:
    """Return the claims in a database (default: those of plan steps); creates their table.

    Raises:
        UserInputError: The database cannot be used.
    """
    url = url or claims_url()
    try:
        return _connect(url)
    except (SQLAlchemyError, ImportError, OSError, sqlite3.Error, ValueError) as error:
        problem = f"cannot be used for claims: {first_line(error)}."
        remedy = "Unset it to share work on this machine only, or see docs/scaling.md."
        raise invalid("PIPELINE_STORAGE", without_password(url), problem, remedy=remedy) from None


@functools.cache
def _connect(url: str) -> Claims:
    connect = {"timeout": 30} if url.startswith("sqlite") else {"connect_timeout": CONNECT_SECONDS}
    engine = sqlalchemy.create_engine(url, connect_args=connect, pool_pre_ping=not url.startswith("sqlite"))
    create = functools.partial(CLAIMS.metadata.create_all, engine)
    if path := sqlite_path(url):
        path.parent.mkdir(parents=True, exist_ok=True)
        prepare_sqlite(path, create)
    elif is_postgresql(url):
        with exclusive_setup(url, forbidden_table=MLFLOW_TABLE):
            create()
    else:
        create()
    return Claims(engine)


@dataclass(frozen=True)
class Claims:
    """The table of claims."""

    engine: sqlalchemy.Engine

    def acquire(self, key: str) -> Claim:
        """Claim a key that is free, whose lease has expired, or whose holder is known to be dead.

        Raises:
            ClaimedElsewhereError: Another process holds it.
        """
        me, clock = process_identity(), self._clock()
        row = self._row(key)
        dead = process_lives(row.owner, row.host) is False or row.owner == me["process"]
        if row.held and not dead:
            raise ClaimedElsewhereError(key, row.owner, row.host)
        free = CLAIMS.c.token == row.token if dead else (CLAIMS.c.token == row.token) & (CLAIMS.c.expires <= clock)
        expires = clock + lease_seconds()
        taken = update(CLAIMS).where(CLAIMS.c.claim_key == key, free)
        if not self.execute(taken.values(token=row.token + 1, owner=me["process"], host=me["host"], expires=expires)):
            row = self._row(key)
            raise ClaimedElsewhereError(key, row.owner, row.host)
        return Claim(self, key, row.token + 1, row.run_id, taken_over=row.expires > 0)

    def is_held(self, key: str) -> bool:
        """Return whether a key is held by a live process, or by one that is not visible from here."""
        row = self._row(key)
        return bool(row.held) and process_lives(row.owner, row.host) is not False

    def renewed(self, expires_in: float) -> Any:
        """Return an expiry time, as an expression."""
        return self._clock() + expires_in

    def execute(self, statement: sqlalchemy.Update) -> int:
        """Run an update and return the number of rows that it changed."""
        with self.engine.begin() as connection:
            return int(connection.execute(statement).rowcount)

    def token(self, key: str) -> int:
        """Return the token of a key's last holder."""
        return int(self._row(key).token)

    def _row(self, key: str) -> Any:
        """Return the row of a key, which is created if there is none."""
        held = (CLAIMS.c.expires > self._clock()).label("held")
        query = select(CLAIMS, held).where(CLAIMS.c.claim_key == key)
        with self.engine.connect() as connection:
            row = connection.execute(query).first()
        if row is not None:
            return row
        empty = insert(CLAIMS).values(claim_key=key, token=0, owner="", host="", run_id="", expires=0.0)
        try:
            with self.engine.begin() as connection:
                connection.execute(empty)
        except IntegrityError:  # another process has just created it
            pass
        with self.engine.connect() as connection:
            return connection.execute(query).one()

    def _clock(self) -> Any:
        return sqlalchemy.type_coerce(text(CLOCKS[self.engine.dialect.name]), Float)


@dataclass
class Claim:
    """A claim of this process, renewed until it is released or lost."""

    claims: Claims
    key: str
    token: int
    previous_run_id: str  # of the last holder; empty if it had none
    taken_over: bool = False  # the last holder died, or its lease expired
    run_id: str = ""  # of this holder, once it has one
    lost: bool = False
    _released: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Start renewing the lease."""
        threading.Thread(target=self._renew, name="claim", daemon=True).start()

    def check(self) -> None:
        """Raise ClaimLostError if another process has taken over; a database error is raised as it is."""
        if not self.lost and self.claims.token(self.key) != self.token:
            self.lost = True
        if self.lost:
            raise ClaimLostError(self.key)

    def record_run(self, run_id: str) -> None:
        """Record the run of this holder, for the next one."""
        self.run_id = run_id
        self._update(run_id=run_id)

    def release(self) -> None:
        """Release the claim; does nothing if it is lost or released."""
        if not self._released.is_set():
            self._released.set()
            with contextlib.suppress(SQLAlchemyError):  # unreachable; the lease will expire
                self._update(expires=0.0)

    def _update(self, **values: object) -> None:
        """Change this claim's row; note if another process has taken over."""
        mine = (CLAIMS.c.claim_key == self.key) & (CLAIMS.c.token == self.token)
        if not self.claims.execute(update(CLAIMS).where(mine).values(**values)):
            self.lost = True

    def _renew(self) -> None:
        while not self._released.wait(lease_seconds() / 3) and not self.lost:
            try:
                self._update(expires=self.claims.renewed(lease_seconds()))
            except SQLAlchemyError:  # unreachable; uploads wait until `check` succeeds
                continue
