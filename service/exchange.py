"""One call of a client but for the sending, which sync and async differ in: the request, its reply, when to retry."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar

import httpx
from pydantic import ValidationError

from certification import __version__

from .schemas import Problem, Reply

TIMEOUT = 310.0
"""Seconds; a server answers after 120 by default (SURETY_DEFAULT_DEADLINE_MS), and pauses between attempts add up."""
AFTER_DEADLINE = 60.0
"""For what a deadline does not count: the upload, the reply, and pauses."""
LONGEST_TIMEOUT = 86_400.0
BUSY = (429, 503)
CONNECT_SECONDS = 10.0
"""A host that does not take a connection by then is down, however long its answers may take."""
FIRST_PAUSE = 0.25
"""Seconds before a failed connection is tried again; twice as long each time."""
LONGEST_PAUSE = 5.0
NOT_MADE = (httpx.ConnectError, httpx.ConnectTimeout)
GATEWAY = (502, 503, 504)
"""What a proxy answers while the server behind it starts again."""
LEAST_SECONDS = 0.001

R = TypeVar("R", bound=Reply)
Outcome = httpx.Response | httpx.RequestError


class ClientError(Exception):
    """A call that brought no answer: :class:`Refused`, :class:`Unreachable` or :class:`BadReply`."""


class Unreachable(ClientError):
    """No reply came: no connection, a connection that broke, or the time was up."""


class BadReply(ClientError):
    """A reply came that is none of Surety's: something else listens at this address, or stands between."""


class Refused(ClientError):
    """The server, or something before it, answered with a status of 400 or more.

    Attributes
    ----------
    status : int
    type : str
        ``urn:surety:problem:`` and a label (docs/api.md); ``about:blank`` where the reply says no more than its status.
    title, detail : str
    members : dict
        What the problem says beside: ``field``, ``required``, ``expected``, ...
    request_id : str or None
        Under which the server's log knows the request.
    retry_after : float or None
        Seconds after which the server asks to be tried again.
    """

    def __init__(self, problem: Problem, request_id: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(problem, request_id, retry_after)
        self.status, self.type, self.title, self.detail = problem.status, problem.type, problem.title, problem.detail
        self.members: dict[str, Any] = dict(problem.model_extra or {})
        self.request_id, self.retry_after = request_id, retry_after

    @property
    def label(self) -> str:
        """The last part of ``type``, as in ``cannot_certify``."""
        return self.type.rpartition(":")[2]

    def __str__(self) -> str:
        request = f", request {self.request_id}" if self.request_id else ""
        return f"{self.title}: {self.detail} ({self.status} {self.label}{request})"


@dataclass(frozen=True)
class Call(Generic[R]):
    """A request, as the arguments ``content`` of httpx beside method and path, and the class of its reply.

    Attributes
    ----------
    status : int
        Of a reply.
    repeatable : bool
        Whether sending it twice comes to the same as sending it once.
    deadline : float
        Seconds after which the server shall answer, if the request says; else 0.
    """

    reply: type[R]
    method: str
    path: str
    content: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    repeatable: bool = False
    deadline: float = 0.0

    def read(self, outcome: Outcome) -> R:
        """The reply; raises :class:`ClientError`."""
        response = checked(outcome, self.status)
        try:
            return self.reply.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the body"
            url = response.url.copy_with(userinfo=b"")
            raise BadReply(f"the reply of {url} is no {self.reply.__name__}: {where}: {first['msg']}") from error


def checked(outcome: Outcome, status: int) -> httpx.Response:
    """A response with this status; raises :class:`ClientError` for anything else."""
    if isinstance(outcome, httpx.RequestError):
        url = outcome.request.url.copy_with(userinfo=b"")
        raise Unreachable(f"no reply from {url}: {str(outcome) or type(outcome).__name__}") from outcome
    if outcome.status_code >= 400:
        raise _refusal(outcome)
    if outcome.status_code != status:
        url = outcome.url.copy_with(userinfo=b"")
        raise BadReply(f"{url} answered {outcome.status_code}, which Surety does not: is the address right?")
    return outcome


@dataclass(frozen=True)
class Connection:
    """Where the server is, and how long and often it is asked; without a ``timeout``, as long as a call needs.

    Raises
    ------
    ValueError
        If a value is out of range; the message never holds the key.
    """

    base_url: str
    api_key: str | None = field(repr=False)
    timeout: float | None
    retries: int

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL as error:
            raise ValueError(f"base_url {self.base_url!r}: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"base_url must be like http://127.0.0.1:8000, not {self.base_url!r}")
        if self.api_key is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            raise ValueError("api_key must be printable ASCII characters without spaces, at least one")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout must be a positive number of seconds, not {self.timeout!r}")
        if self.retries < 0:
            raise ValueError(f"retries must be 0 or more, not {self.retries!r}")

    @property
    def arguments(self) -> dict[str, Any]:
        """What httpx's clients are made with."""
        headers = {"User-Agent": f"surety/{__version__}"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return {"base_url": self.base_url, "headers": headers}

    def seconds(self, deadline: float = 0.0) -> float:
        """For one call, whose request has this deadline in seconds."""
        if self.timeout is not None:
            return self.timeout
        return min(max(TIMEOUT, deadline + AFTER_DEADLINE), LONGEST_TIMEOUT)


class Patience:
    """How long one call may still take, and whether it is tried again.

    A connection that was not made, and 429 or 503 with Retry-After; nothing else, since whatever else went wrong may
    go wrong again or be at work still. A call that is ``repeatable`` is also tried again after a connection that broke,
    and after 502, 503 and 504.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        repeatable: bool = False,
        retries: float | None = None,
        first_pause: float = FIRST_PAUSE,
        deadline: float = 0.0,
    ) -> None:
        self._end = time.monotonic() + connection.seconds(deadline)
        self._left = connection.retries if retries is None else retries
        self._pause = first_pause
        self._repeatable = repeatable

    @property
    def timeout(self) -> httpx.Timeout:
        """For the next attempt: what is left of the call's time."""
        seconds = max(self._end - time.monotonic(), LEAST_SECONDS)
        return httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))

    def pause_after(self, outcome: Outcome) -> float | None:
        """Seconds to wait before the same is sent again; None: the outcome stands."""
        pause = None
        if isinstance(outcome, httpx.Response):
            if outcome.status_code in BUSY:
                pause = _retry_after(outcome)
            again = self._repeatable and outcome.status_code in GATEWAY
        else:
            again = isinstance(outcome, httpx.TransportError if self._repeatable else NOT_MADE)
        if pause is None and again:
            pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        if pause is None or self._left == 0 or time.monotonic() + pause >= self._end:
            return None
        self._left -= 1
        return pause


def _refusal(response: httpx.Response) -> Refused:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        problem = Problem(
            type="about:blank",
            title=response.reason_phrase or "Refused",
            status=response.status_code,
            detail=f"{response.url.copy_with(userinfo=b'')} gave no reason that Surety would give",
            instance=response.url.path,
        )
    # What counts is the status that arrived: whatever stands between may have changed it.
    problem = problem.model_copy(update={"status": response.status_code})
    return Refused(problem, response.headers.get("x-request-id"), _retry_after(response))


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds of Retry-After, which is a number of them or a date (RFC 9110, 10.2.3); None where there is none."""
    text = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max((date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)
