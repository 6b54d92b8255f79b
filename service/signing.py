"""Canonical JSON, and Ed25519 signatures over it (RFC 8032)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM = "Ed25519"
KEY_FILE_MODE = 0o600


class SigningError(ValueError):
    """A key or a signed document that cannot be read; the message says which and why."""


def canonical(value: Any) -> bytes:
    """The bytes that are signed: JSON in ASCII, keys sorted, no spaces, floats as Python's ``repr``.

    Raises
    ------
    ValueError
        If a number is not finite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


@dataclass(frozen=True)
class Signed:
    """A JSON object, its signature (64 bytes) and the public key (32 bytes) that fits."""

    document: dict[str, Any]
    signature: bytes
    public_key: bytes

    @property
    def fingerprint(self) -> str:
        """See :func:`fingerprint`."""
        return fingerprint(self.public_key)

    @property
    def is_valid(self) -> bool:
        """Whether the signature is one of this very document by this public key."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(self.signature, canonical(self.document))
        except (InvalidSignature, ValueError):
            return False
        return True

    def to_text(self) -> str:
        """What :meth:`from_text` reads."""
        members = {
            "certificate": self.document,
            "signature": base64.b64encode(self.signature).decode(),
            "public_key": base64.b64encode(self.public_key).decode(),
            "key_fingerprint": self.fingerprint,
        }
        return canonical(members).decode()

    @classmethod
    def from_text(cls, text: str) -> Signed:
        """Read a signed document; raises :class:`SigningError` if it is none."""
        try:
            members = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise SigningError(f"not JSON: {error}") from error
        expected = {"certificate", "signature", "public_key", "key_fingerprint"}
        if not isinstance(members, dict) or set(members) != expected:
            raise SigningError(f"not a signed certificate: an object of {', '.join(sorted(expected))}")
        if not isinstance(members["certificate"], dict):
            raise SigningError("certificate: not an object")
        signature, public_key = (_from_base64(members, name) for name in ("signature", "public_key"))
        if members["key_fingerprint"] != fingerprint(public_key):
            raise SigningError("key_fingerprint: is not that of public_key")
        return cls(members["certificate"], signature, public_key)


def fingerprint(public_key: bytes) -> str:
    """SHA-256 of a public key (32 bytes) in DER, hex: ``openssl pkey -pubin -outform DER | sha256sum``."""
    key = Ed25519PublicKey.from_public_bytes(public_key)
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def read_public_key(path: Path) -> bytes:
    """The 32 bytes of a public key in PEM; raises :class:`SigningError`."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise SigningError(f"{path}: not a public key in PEM: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SigningError(f"{path}: not an {ALGORITHM} key")
    return key.public_bytes_raw()


class SigningKey:
    """A private key; nothing of it is ever shown but its public half."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """A key from an unencrypted PEM file (PKCS 8); raises :class:`SigningError`."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SigningError(f"{path}: not a private key in PEM: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SigningError(f"{path}: not an {ALGORITHM} key")
        return cls(key)

    @classmethod
    def read_or_create(cls, path: Path) -> SigningKey:
        """The key of a file that is made, readable by its owner only, where there is none.

        Several processes may do this at once: all get the same key.

        Raises
        ------
        SigningError, OSError
        """
        if not path.exists():
            fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
            try:
                _write(fresh, Ed25519PrivateKey.generate())
                # a link is never made over an existing file, and is there with its whole content or not at all
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink(missing_ok=True)
        return cls.read(path)

    @property
    def public_pem(self) -> str:
        """The public key in PEM."""
        key = self._key.public_key()
        return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, document: dict[str, Any]) -> Signed:
        """Sign the canonical form of a JSON object."""
        return Signed(document, self._key.sign(canonical(document)), self.public_key)


def _write(path: Path, key: Ed25519PrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, KEY_FILE_MODE), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())


def _from_base64(members: dict[str, Any], name: str) -> bytes:
    size = {"signature": 64, "public_key": 32}[name]
    try:
        found = base64.b64decode(members[name], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise SigningError(f"{name}: not base64") from error
    if len(found) != size:
        raise SigningError(f"{name}: {len(found)} bytes, not {size}")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name is given twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
