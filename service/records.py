"""Keeping certificates: signing, storing, the three modes, and retention. Never on the event loop."""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL

from certification.plan import CertificationPlan

from .certificate import certificate_of
from .certifier import Task
from .computing import Machine
from .errors import DeletionDisabledError, RecordsUnavailableError, UnknownCertificateError, quote
from .metrics import Metrics
from .schemas import CertifyReply
from .settings import Settings
from .signing import SigningError, SigningKey
from .store import Record, RecordsError, Store

logger = logging.getLogger("surety")

ID_BYTES = 16
ID = re.compile(r"[A-Za-z0-9_-]{32}")
RETENTION_SECONDS = 600.0
"""Between two looks at what is too old or too many."""
RETENTION_BATCH = 500
CLOSING_SECONDS = 2.0
"""For a deletion that is under way when the server ends."""
SECONDS_A_DAY = 86400.0


class Records:
    """The certificates of one server; with ``records = "off"`` there are none, and nothing touches the disk.

    Parameters
    ----------
    settings : Settings
    metrics : Metrics
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._required = settings.records == "required"
        self._opened: tuple[Store, SigningKey] | None = None
        self._stop = threading.Event()
        self._retention = threading.Thread(target=self._retain, name="retention", daemon=True)

    def open(self) -> None:
        """Read or make the signing key, open the database, and begin with retention.

        A database that cannot be reached now is tried again at each use.

        Raises
        ------
        RecordsError
            If the settings cannot work.
        """
        settings = self._settings
        if settings.records == "off":
            return
        try:
            folder = settings.data_folder.absolute()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            key = (
                SigningKey.read_or_create(folder / "signing_key.pem")
                if settings.signing_key is None
                else SigningKey.read(settings.signing_key)
            )
        except SigningError as error:
            raise RecordsError(str(error)) from error
        except OSError as error:
            raise RecordsError(
                f"the data directory cannot be used ({error}): name another one in SURETY_DATA_DIR, or set "
                "SURETY_RECORDS=off to keep no certificates"
            ) from error
        store = Store(settings.database_url or URL.create("sqlite", database=str(folder / "certificates.sqlite")))
        try:
            store.open()
        except RecordsUnavailableError as error:
            logger.warning("certificates cannot be stored yet: %s", error)
        self._opened = store, key
        self._retention.start()

    def close(self) -> None:
        """Stop retention and let go of the database."""
        self._stop.set()
        if self._opened is not None:
            if self._retention.is_alive():
                self._retention.join(CLOSING_SECONDS)
            self._opened[0].close()

    @property
    def store(self) -> Store | None:
        """The database; None where there are no records, or not yet."""
        return None if self._opened is None else self._opened[0]

    @property
    def signing_key(self) -> SigningKey:
        """The key that signs; raises :class:`UnknownCertificateError` where nothing is signed."""
        return self._parts()[1]

    def check(self) -> None:
        """Where records are required, refuse now what could not be stored later."""
        if self._required and self._opened is not None:
            with self._counted():
                self._opened[0].ping()

    def keep(self, task: Task[CertificationPlan], reply: CertifyReply, machine: Machine) -> CertifyReply:
        """Store an answer; returns it with its id, which is null where it was not stored.

        Raises
        ------
        RecordsUnavailableError
            If records are required and this one could not be stored.
        """
        if self._opened is None:
            return reply
        record = self.sign(task, reply, machine)
        try:
            with self._counted():
                self._opened[0].add(record)
        except RecordsUnavailableError:
            if self._required:
                raise
            return reply
        self._metrics.records.labels("stored").inc()
        return reply.model_copy(update={"certificate_id": record.id})

    def sign(self, task: Task[CertificationPlan], reply: CertifyReply, machine: Machine) -> Record:
        """A new record of an answer, which is not stored yet."""
        _, key = self._parts()
        identifier, now = secrets.token_hex(ID_BYTES), time.time()
        document = certificate_of(task, reply, machine=machine, identifier=identifier, created=now)
        image = task.upload if self._settings.store_images else None
        return Record(identifier, now, key.sign(document.to_json()).to_text(), image)

    def get(self, identifier: str) -> Record:
        """A record; raises :class:`UnknownCertificateError`."""
        store, _ = self._parts()
        found = store.get(identifier) if ID.fullmatch(identifier) else None
        if found is None:
            raise _unknown(identifier)
        return found

    def delete(self, identifier: str) -> None:
        """Delete a record; raises :class:`UnknownCertificateError`, :class:`DeletionDisabledError`."""
        if not self._settings.records_deletion:
            raise DeletionDisabledError("this server deletes certificates by their age and number only")
        store, _ = self._parts()
        if not (ID.fullmatch(identifier) and store.delete(identifier)):
            raise _unknown(identifier)

    def trim(self) -> int:
        """Delete what is too old or too many, in small transactions; returns how many."""
        store, _ = self._parts()
        settings, deleted = self._settings, 0
        if settings.records_max_days is not None:
            before = time.time() - SECONDS_A_DAY * settings.records_max_days
            while not self._stop.is_set() and (gone := store.delete_oldest(RETENTION_BATCH, before=before)):
                deleted += gone
        if settings.records_max_count is not None:
            keep = settings.records_max_count
            while not self._stop.is_set() and (gone := store.delete_oldest(RETENTION_BATCH, keep=keep)):
                deleted += gone
        return deleted

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Counts a certificate that cannot be stored."""
        try:
            yield
        except RecordsUnavailableError:
            self._metrics.records.labels("failed").inc()
            raise

    def _retain(self) -> None:
        while True:
            try:
                if deleted := self.trim():
                    logger.info("retention deleted %d certificates", deleted)
            except RecordsUnavailableError:
                pass  # logged where it happened; the next look tries again
            if self._stop.wait(RETENTION_SECONDS):
                return

    def _parts(self) -> tuple[Store, SigningKey]:
        if self._opened is None:
            raise UnknownCertificateError("this server keeps no certificates")
        return self._opened


def _unknown(identifier: str) -> UnknownCertificateError:
    return UnknownCertificateError(f"no certificate {quote(identifier)}: it never was here, or was deleted")
