"""``surety verify``: a certificate is checked with its image and model, without a server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pydantic import ValidationError

from gpu.targets import DeviceError, select_device
from models.card import CardError
from models.registry import load_registry

from .certifier import Certifier
from .computing import LocalComputer
from .engine import Cancellation, Engine
from .errors import RequestError
from .metrics import Metrics
from .schemas import VerifyReply
from .settings import SHIPPED_ZOO, Settings
from .signing import Signed, SigningError, read_public_key
from .verification import NotVerified, Verification

VERIFIED, NOT_VERIFIED, USAGE = 0, 1, 2


class InputError(Exception):
    """A file that cannot be used."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.description = "Exit status: 0 verified, 1 not verified, 2 the check could not be made."
    parser.add_argument("file", type=Path, help="what GET /v1/certificates/{id} answered")
    parser.add_argument("--image", type=Path, required=True, help="the image that was certified")
    parser.add_argument("--zoo", type=Path, default=SHIPPED_ZOO, help="directory of models (the shipped ones)")
    parser.add_argument("--public-key", type=Path, help="PEM of the key that must have signed")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Verify; returns the exit status."""
    try:
        reply = _verify(arguments)
    except (InputError, CardError, ValidationError) as error:
        print(f"surety: {error}", file=sys.stderr)
        return USAGE
    print(reply.model_dump_json(indent=2) if arguments.json else _text(reply))
    return VERIFIED if reply.verified else NOT_VERIFIED


def _verify(arguments: argparse.Namespace) -> VerifyReply:
    text, image = _read(arguments.file).decode("utf-8", "replace"), _read(arguments.image)
    try:
        trusted = None if arguments.public_key is None else read_public_key(arguments.public_key)
        signed = Signed.from_text(text)
    except SigningError as error:
        raise InputError(str(error)) from error
    settings = Settings(zoo=arguments.zoo, records="off")
    try:
        device = select_device(str(signed.document.get("runtime", {}).get("device", "cpu")))
    except (AttributeError, DeviceError):
        device = "cpu"
    metrics = Metrics(Engine(1, 0.0))
    registry = load_registry([settings.zoo], device)
    certifier = Certifier(registry, LocalComputer(registry, device), settings, metrics)
    try:
        verification = Verification(signed, certifier, trusted)
        try:
            task = verification.prepare(image)
        except RequestError as error:
            raise verification.refusal(f"it is about another image: {error}") from error
        return verification.replay(task, Cancellation())
    except NotVerified as refusal:
        return refusal.reply


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _text(reply: VerifyReply) -> str:
    lines = ["verified" if reply.verified else f"not verified: {reply.reason}"]
    for title, differences in (("differs", reply.differences), ("other runtime", reply.runtime_differences)):
        lines += [f"  {title}: {one.field}: {one.recorded!r} recorded, {one.found!r} found" for one in differences]
    whose = "the key that was given" if reply.key_is_trusted else "no key that was given vouches for it"
    lines.append(f"  signed with {reply.key_fingerprint} ({whose})")
    return "\n".join(lines)
