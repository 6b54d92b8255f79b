"""API keys: a file of salted hashes, and the keyring that reads it again whenever it changes.

A key is ``surety.NAME.SECRET``. The name finds its entry, so that one comparison is enough; the file holds a
hash of the secret, never the secret.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from .errors import UnauthenticatedError
from .settings import SettingsError

logger = logging.getLogger("surety")

PREFIX = "surety"
SECRET_BYTES = 32
SALT_BYTES = 16
HEX = r"^[0-9a-f]+$"


class Scope(StrEnum):
    """What a key may do; ``certify`` includes ``predict``, ``admin`` reads the metrics."""

    PREDICT = "predict"
    CERTIFY = "certify"
    ADMIN = "admin"


class KeysError(SettingsError):
    """The file of keys cannot be read, or does not hold what it should."""


class KeyEntry(BaseModel):
    """One key of the file.

    Fields
    ------
    name
        1 to 40 small letters, digits and hyphens; unique.
    salt, hash
        Hexadecimal; see :func:`hash_of`.
    scopes
        At least one.
    requests_per_minute, votes_per_day
        Limits of this key; null: none.
    expires
        From this moment on the key is unknown; null: never.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9-]{1,40}$")
    salt: str = Field(pattern=HEX, min_length=2 * SALT_BYTES, max_length=2 * SALT_BYTES)
    hash: str = Field(pattern=HEX, min_length=64, max_length=64)
    scopes: tuple[Scope, ...] = Field(min_length=1)
    requests_per_minute: int | None = Field(default=None, ge=1, le=100_000)
    votes_per_day: int | None = Field(default=None, ge=1)
    expires: AwareDatetime | None = None

    @property
    def expired(self) -> bool:
        """Whether the key's time is over."""
        return self.expires is not None and datetime.now(UTC) >= self.expires


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[KeyEntry]


def hash_of(salt: str, secret: str) -> str:
    """Salted SHA-256 of a secret, hexadecimal.

    A fast hash is right: a secret is 256 random bits, which nobody finds by trying. Slow hashes protect what
    people choose, and would let strangers keep the server busy with wrong keys.
    """
    return hashlib.sha256(bytes.fromhex(salt) + secret.encode()).hexdigest()


def make_key(
    name: str,
    scopes: Iterable[Scope],
    *,
    requests_per_minute: int | None = None,
    votes_per_day: int | None = None,
    expires: datetime | None = None,
) -> tuple[str, KeyEntry]:
    """A new key and its entry.

    Raises
    ------
    ValidationError
        If an argument is outside the range that :class:`KeyEntry` names.
    """
    secret, salt = secrets.token_urlsafe(SECRET_BYTES), secrets.token_hex(SALT_BYTES)
    entry = KeyEntry(
        name=name,
        salt=salt,
        hash=hash_of(salt, secret),
        scopes=tuple(sorted(set(scopes))),
        requests_per_minute=requests_per_minute,
        votes_per_day=votes_per_day,
        expires=expires,
    )
    return f"{PREFIX}.{name}.{secret}", entry


def read_keys(path: Path) -> dict[str, KeyEntry]:
    """The entries of a file by name; raises :class:`KeysError` with its path and what is wrong."""
    try:
        found = _KeyFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise KeysError(f"{path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
    entries = {entry.name: entry for entry in found.keys}
    if len(entries) < len(found.keys):
        raise KeysError(f"{path}: two keys have the same name")
    return entries


def write_keys(path: Path, entries: Mapping[str, KeyEntry]) -> None:
    """Replace a file in one step, for its owner alone (mode 0600), so that no server reads half of it."""
    text = json.dumps({"keys": [entry.model_dump(mode="json") for entry in entries.values()]}, indent=2) + "\n"
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            if path.exists():
                # Root may write for the server's user.
                with suppress(PermissionError):
                    os.fchown(file.fileno(), path.stat().st_uid, path.stat().st_gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class Keyring:
    """The keys that are valid now.

    A file that has become unreadable changes nothing until it can be read again; the log says so. Raises
    :class:`KeysError` if it cannot be read at first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._stamp_now()
        self._entries = read_keys(path)
        # Stands for unknown names, so that these take as long to refuse as a wrong secret.
        self._nobody = make_key("nobody", [Scope.ADMIN])[1]

    def find(self, presented: str) -> KeyEntry:
        """The entry of a key; raises :class:`UnauthenticatedError`, which does not say why."""
        self._refresh()
        name, _, secret = presented.removeprefix(f"{PREFIX}.").partition(".")
        entry = self._entries.get(name, self._nobody)
        if not hmac.compare_digest(hash_of(entry.salt, secret), entry.hash) or entry.expired:
            raise UnauthenticatedError("the API key is not valid")
        return entry

    @property
    def entries(self) -> dict[str, KeyEntry]:
        """The keys that are valid now, by name."""
        self._refresh()
        return {name: entry for name, entry in self._entries.items() if not entry.expired}

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _refresh(self) -> None:
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._entries = read_keys(self._path)
        except KeysError as error:
            logger.error("the keys read before stay valid: %s", error)
        else:
            logger.info("keys were read again: %d", len(self._entries))
