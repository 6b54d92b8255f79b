"""``surety certify`` and ``surety predict``: images in, a line for each out, by a server that runs somewhere.

exit status, the worst of all images in the order 0, 3, 4, 2, 5:
  0    every image got a certificate (certify) or a label (predict)
  3    the server abstained on an image
  4    the server refused an image or the request (4xx)
  2    an option is wrong, or an image cannot be read
  5    no server answered: no connection, no reply in time, 5xx, or still busy (429) after retries
  130  interrupted (Ctrl-C): the images after that were not asked about
  141  whoever read the output has closed it
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from certification.vocabulary import Estimator, Guarantee, ImageIs, Transformation

from .client import BadReply, Client, ClientError, Refused
from .exchange import TIMEOUT
from .schemas import AnswerReply, CertifyFields, CertifyReply

URL = "http://127.0.0.1:8000"
STDIN = "-"
ANSWERED, ABSTAINED, REFUSED, USAGE, UNAVAILABLE, INTERRUPTED, CLOSED = 0, 3, 4, 2, 5, 130, 141
MILDEST_FIRST = (ANSWERED, ABSTAINED, REFUSED, USAGE, UNAVAILABLE)
"""The last one alone says that the same command may do better later, so nothing hides it."""
TICK_SECONDS = 0.5


@dataclass(frozen=True)
class Result:
    """What became of one image: the line for people, the object for programs, and its exit status."""

    text: str
    data: dict[str, Any]
    status: int


@dataclass(frozen=True)
class Command:
    """One of the two commands, named as the client's method."""

    name: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = (__doc__ or "").split("\n\n", 1)[1]
        add_images(parser)
        add_connection(parser, "for one image, in all")
        parser.add_argument(
            "--json", action="store_true", help="one JSON object a line: file, and the reply or an error"
        )
        add_fields(parser, certify=self.name == "certify")

    def run(self, arguments: argparse.Namespace) -> int:
        """Ask about every image; returns the exit status."""
        fields = fields_of(arguments)
        return with_client(
            arguments, lambda client: self._ask_all(client, arguments.images, fields, as_json=arguments.json)
        )

    def _ask_all(self, client: Client, names: list[str], fields: dict[str, Any], *, as_json: bool) -> int:
        worst = ANSWERED
        with progress(len(names)) as bar:
            for name in names:
                bar.set_description(one_line(name))
                result = self._ask(client, name, fields)
                with tqdm.external_write_mode(file=sys.stdout):
                    if as_json:
                        say(json.dumps({"file": name, **result.data}), sys.stdout)
                    else:
                        answered = result.status in (ANSWERED, ABSTAINED)
                        say(f"{name}: {result.text}", sys.stdout if answered else sys.stderr)
                bar.update()
                worst = worst_of(worst, result.status)
        return worst

    def _ask(self, client: Client, name: str, fields: dict[str, Any]) -> Result:
        image = read_image(name)
        if isinstance(image, Result):
            return image
        try:
            reply: AnswerReply = getattr(client, self.name)(image, **fields)
        except ClientError as error:
            return not_answered(error)
        return Result(sentence(reply), reply.model_dump(mode="json"), ABSTAINED if reply.abstained else ANSWERED)


certify, predict = Command("certify"), Command("predict")


def add_images(parser: argparse.ArgumentParser) -> None:
    """Declare the images, one or more."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, or - for standard input")


def add_connection(parser: argparse.ArgumentParser, time_for: str) -> None:
    """Declare which server is asked, as whom, and for how long."""
    add = parser.add_argument
    add("--url", default=os.environ.get("SURETY_URL") or URL, help=f"the server (SURETY_URL, {URL})")
    add(
        "--api-key",
        default=os.environ.get("SURETY_API_KEY") or None,
        metavar="KEY",
        help="better set as SURETY_API_KEY, which no list of processes shows",
    )
    more = f"({TIMEOUT:g}, or more where a request's deadline needs it)"
    add("--timeout", type=float, metavar="SECONDS", help=f"{time_for} {more}")


def add_fields(parser: argparse.ArgumentParser, *, certify: bool) -> None:
    """Declare the fields of a request."""
    add = parser.add_argument_group("fields of the request; defaults are the server's").add_argument
    add("--model", type=plain_text, metavar="ID")
    add("--transformation", choices=_names(Transformation))
    add("--guarantee", choices=_names(Guarantee))
    add("--alpha", type=float, help="probability that the answer is wrong, in (0, 1)")
    add("--estimator", choices=_names(Estimator))
    add("--deadline-ms", type=int, metavar="MS", help="after so long the answer is what was shown until then")
    if certify:
        add("--range", type=float, dest="attack_range", metavar="RANGE", help="half-width: degrees, pixels, l2")
        add("--image-is", choices=_names(ImageIs), help="received: perhaps attacked already; reference: clean")
        add("--wanted-radius", type=float, metavar="RADIUS", help="where the run may stop: degrees, pixels, l2")


def fields_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The request's fields; None where one was not given."""
    return {name: value for name, value in vars(arguments).items() if name in CertifyFields.model_fields}


def with_client(arguments: argparse.Namespace, ask: Callable[[Client], int]) -> int:
    """Ask a server, and give the exit status: ``ask``'s, or why it did not come to its end."""
    try:
        client = Client(arguments.url, api_key=arguments.api_key, timeout=arguments.timeout)
    except ValueError as error:
        say(f"surety: {error}", sys.stderr)
        return USAGE
    try:
        with client:
            return ask(client)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Or else the interpreter would meet the same error when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED


def read_image(name: str) -> bytes | Result:
    """The bytes of a file, or why there are none."""
    try:
        return sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except IsADirectoryError:
        return _failed("unreadable", "is a directory: name the images in it", USAGE)
    except OSError as error:
        return _failed("unreadable", error.strerror or str(error), USAGE)


def worst_of(*statuses: int) -> int:
    """The exit status that counts."""
    return max(statuses, key=MILDEST_FIRST.index)


def _names(words: type[Transformation] | type[Guarantee] | type[Estimator] | type[ImageIs]) -> list[str]:
    return [word.value for word in words]


def sentence(reply: AnswerReply) -> str:
    """The answer, who it holds for, and what it took; short, so not the statement itself."""
    parts = [f"abstained: {reply.reason}" if reply.abstained else f"class {reply.class_name}"]
    no_proof = " (no proof)" if reply.guarantee is Guarantee.HEURISTIC else ""
    parts.append(f"{reply.guarantee} guarantee{no_proof}")
    if isinstance(reply, CertifyReply):
        if reply.radius is not None:
            covers = "covers" if reply.covers_attack_range else "short of"
            parts.insert(
                1, f"radius {at_most(reply.radius)} {reply.radius_unit} ({covers} the range {reply.attack_range:g})"
            )
        parts.append(f"{reply.image_is} image")
    if reply.estimator is not None:
        parts.append(f"{reply.estimator} classifier")
    return ", ".join([*parts, f"{reply.counts.votes:,} votes", f"{reply.seconds.total:.1f} s"])


def at_most(number: float) -> str:
    """Four digits of a number of which never more is shown than was certified."""
    return f"{Context(prec=4, rounding=ROUND_FLOOR).create_decimal(repr(number)):f}"


def not_answered(error: ClientError) -> Result:
    if isinstance(error, Refused):
        status = REFUSED if error.status < 500 and error.status != 429 else UNAVAILABLE
        told = {"status": error.status, "type": error.type, "title": error.title, "detail": error.detail}
        return Result(str(error), {"error": {**error.members, **told, "request_id": error.request_id}}, status)
    return _failed("bad_reply" if isinstance(error, BadReply) else "unreachable", str(error), UNAVAILABLE)


def _failed(kind: str, detail: str, status: int) -> Result:
    return Result(detail, {"error": {"type": kind, "detail": detail}}, status)


@contextmanager
def progress(total: int) -> Iterator[Any]:
    """A bar over the images on standard error, its seconds running on while one is waited for; none off a terminal."""
    shape = "{desc}{elapsed}" if total == 1 else None
    done = threading.Event()
    with tqdm(total=total, unit="image", bar_format=shape, leave=False, disable=None) as bar:

        def tick() -> None:
            while not done.wait(TICK_SECONDS):
                bar.refresh()

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        try:
            yield bar
        finally:
            done.set()
            ticker.join()


def plain_text(argument: str) -> str:
    """An argument that can be sent: not one of bytes that are no text."""
    argument.encode()
    return argument


def one_line(text: str) -> str:
    """Names of files and texts of servers may hold anything; a terminal gets what is printable, the rest escaped."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def say(text: str, stream: TextIO) -> None:
    encoding = stream.encoding or "utf-8"
    print(one_line(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
