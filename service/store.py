"""The database of certificates: SQLite in a file, or PostgreSQL; every write is durable once it returns.

Nothing here runs on the event loop. A database that cannot be reached, is full or locked raises
:class:`RecordsUnavailableError` and may heal by itself; one that is configured wrongly raises :class:`RecordsError`.
"""

from __future__ import annotations

import fcntl
import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import (
    URL,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Float,
    LargeBinary,
    MetaData,
    NullPool,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    insert,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from .errors import RecordsUnavailableError

logger = logging.getLogger("surety")

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = threading.Lock()
"""Alembic's context belongs to the whole process."""
ADVISORY_LOCK = 0x5375726574790001
"""Of PostgreSQL: held by the one server that migrates."""
BUSY_SECONDS = 10.0
"""How long a transaction waits for another one, or for a connection."""
CONNECT_SECONDS = 5
RETRY_SECONDS = 5
METADATA = MetaData()
CERTIFICATES = Table(
    "certificates",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("created", Float(53), nullable=False),
    Column("signed", Text, nullable=False),
    Column("image", LargeBinary),
)
"""The newest schema, as the migrations leave it."""


class RecordsError(Exception):
    """Settings of the records that cannot work; the message is for the operator."""


@dataclass(frozen=True)
class Record:
    """One certificate: its id, seconds since 1970, the signed text, and the uploaded file if that is kept."""

    id: str
    created: float
    signed: str
    image: bytes | None


class Store:
    """Certificates by id.

    Parameters
    ----------
    url : str or URL
        ``sqlite:////absolute/path`` or ``postgresql://user:password@host/database``.

    Raises
    ------
    RecordsError
        If the URL is none of these, or its driver is not installed.
    """

    def __init__(self, url: str | URL) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise RecordsError("SURETY_DATABASE_URL is not a database URL") from error
        kind = parsed.get_backend_name()
        if kind == "sqlite" and parsed.database not in (None, "", ":memory:"):
            self._file: Path | None = Path(str(parsed.database)).absolute()
            self._engine = _sqlite(self._file)
        elif kind == "postgresql":
            self._file = None
            self._engine = _postgresql(parsed)
        else:
            raise RecordsError("SURETY_DATABASE_URL must be sqlite:///FILE or postgresql://...")
        self._opening = threading.Lock()
        self._open = False

    def add(self, record: Record) -> None:
        """Store a record; it survives whatever happens to this process once this returns."""
        with self.transaction() as connection:
            connection.execute(insert(CERTIFICATES).values(asdict(record)))

    def get(self, identifier: str) -> Record | None:
        """A record, or None where there is none."""
        with self.transaction() as connection:
            row = connection.execute(select(CERTIFICATES).where(CERTIFICATES.c.id == identifier)).one_or_none()
        return None if row is None else Record(row.id, row.created, row.signed, row.image)

    def delete(self, identifier: str) -> bool:
        """Delete a record; False where there was none."""
        with self.transaction() as connection:
            return connection.execute(delete(CERTIFICATES).where(CERTIFICATES.c.id == identifier)).rowcount > 0

    def count(self) -> int:
        """Number of records."""
        with self.transaction() as connection:
            return connection.execute(select(func.count()).select_from(CERTIFICATES)).scalar_one()

    def delete_oldest(self, most: int, *, before: float | None = None, keep: int | None = None) -> int:
        """Delete at most so many of the oldest records; returns how many.

        Only those made before a time (seconds since 1970), and none of the ``keep`` newest, whoever else deletes now.
        """
        oldest = select(CERTIFICATES.c.id).order_by(CERTIFICATES.c.created, CERTIFICATES.c.id).limit(most)
        if before is not None:
            oldest = oldest.where(CERTIFICATES.c.created < before)
        if keep is not None:
            newest = select(CERTIFICATES.c.created).order_by(CERTIFICATES.c.created.desc())
            oldest = oldest.where(CERTIFICATES.c.created < newest.offset(keep - 1).limit(1).scalar_subquery())
        with self.transaction() as connection:
            return connection.execute(delete(CERTIFICATES).where(CERTIFICATES.c.id.in_(oldest))).rowcount

    def ping(self) -> None:
        """Raise :class:`RecordsUnavailableError` if the database cannot be read."""
        with self.transaction() as connection:
            connection.execute(select(CERTIFICATES.c.id).limit(1))

    @property
    def now(self) -> ColumnElement[float]:
        """The database's own clock, seconds since 1970: the same for all servers."""
        if self._file is None:
            return func.extract("epoch", func.clock_timestamp()).cast(Float(53))
        return (func.julianday("now") - 2440587.5) * 86400.0

    def open(self) -> None:
        """Make the database if need be and bring it to the newest schema; once, and safely beside other processes.

        Raises
        ------
        RecordsError
            If the database was made by a newer version.
        RecordsUnavailableError
            If it cannot be reached now; the next use tries again.
        """
        if self._open:
            return
        if not self._opening.acquire(blocking=False):
            raise _unavailable("the database is being opened")
        try:
            with MIGRATION_LOCK, _translated(), self._alone():
                if self._file is not None:
                    _make_file(self._file)
                with self._engine.begin() as connection:
                    if self._file is None:
                        connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
                    _migrate(connection)
            self._open = True
        finally:
            self._opening.release()

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process opens the same SQLite file: neither its switch to WAL nor its migration waits by itself."""
        if self._file is None:
            yield
            return
        with self._file.with_name(self._file.name + ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction, made durable at its end; on SQLite one that writes must begin with a write.

        Raises
        ------
        RecordsUnavailableError
            If the database cannot be used now.
        """
        self.open()
        with _translated(), self._engine.begin() as connection:
            yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise  # a conflict with what is there, which the caller knows about
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        logger.warning("the records' database failed: %s", str(getattr(error, "orig", None) or error).strip())
        raise _unavailable("the database of certificates cannot be used now") from error


def _unavailable(reason: str) -> RecordsUnavailableError:
    return RecordsUnavailableError(f"{reason}; try again later", retry_after_seconds=RETRY_SECONDS)


def _make_file(file: Path) -> None:
    """An empty database in WAL mode, which the file remembers."""
    connection = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def _sqlite(file: Path) -> Engine:
    """Each transaction opens the file anew: what was moved away or replaced is noticed, never written to unseen."""

    def connect() -> sqlite3.Connection:
        # mode=rw: a database that was lost is not replaced by an empty one while the server runs
        connection = sqlite3.connect(
            f"file:{quote(str(file))}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None
        )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    engine = create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)
    # the driver's own transactions would leave out the statements of a migration
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _postgresql(url: URL) -> Engine:
    milliseconds = round(1000 * BUSY_SECONDS)
    options = f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} -c synchronous_commit=on"
    try:
        return create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_timeout=BUSY_SECONDS,
            hide_parameters=True,
            connect_args={
                "connect_timeout": CONNECT_SECONDS,
                "options": options,
                # a host that dies before it answers: what is unacknowledged, and what is only waited for
                "tcp_user_timeout": milliseconds,
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
            },
        )
    except ModuleNotFoundError as error:
        raise RecordsError("PostgreSQL needs its driver: the extra 'postgres' (surety[postgres])") from error


def _migrate(connection: Connection) -> None:
    configuration = Config()
    configuration.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    attributes: dict[Any, Any] = configuration.attributes
    attributes["connection"] = connection
    try:
        command.upgrade(configuration, "head")
    except CommandError as error:
        raise RecordsError(f"the database of certificates was made by a newer version: {error}") from error
