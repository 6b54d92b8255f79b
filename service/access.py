"""Who may do what: keys, scopes, rates and budgets, checked before a body is read."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import BudgetError, RateError, RequestError, ScopeError, UnauthenticatedError, problem_of
from .keys import KeyEntry, Keyring
from .keys import Scope as KeyScope
from .metrics import Metrics
from .settings import Settings, SettingsError

OPEN = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no key. Whole paths: what only begins like one is not open."""
NEEDED: Mapping[str, frozenset[KeyScope]] = {
    "/v1/predict": frozenset({KeyScope.PREDICT, KeyScope.CERTIFY}),
    "/v1/certify": frozenset({KeyScope.CERTIFY}),
    "/v1/certificates": frozenset({KeyScope.CERTIFY, KeyScope.ADMIN}),
    "/v1/jobs": frozenset({KeyScope.CERTIFY}),
    "/v2/models": frozenset({KeyScope.PREDICT, KeyScope.CERTIFY}),
    "/metrics": frozenset({KeyScope.ADMIN}),
}
"""One of these scopes for every path that begins so, since a router may match a little more than a whole path
(a line feed at its end); any key for the others. An inference that certifies and the deletion of a
certificate demand more (:func:`demand`)."""
ADMIN = frozenset({KeyScope.ADMIN})
SPENDING = ("/v1/predict", "/v1/certify", "/v1/certificates", "/v1/jobs", "/v2/models")
"""Paths under which a POST costs votes."""
MINUTE, DAY = 60.0, 86_400.0


def check_exposure(settings: Settings) -> None:
    """Raise :class:`SettingsError` if anybody could reach a server without keys."""
    if settings.keys_file is not None or settings.allow_public_without_keys or is_loopback(settings.host):
        return
    raise SettingsError(
        f"{settings.host} is not a loopback address and there are no API keys: make one with 'surety keys new' and "
        "name its file in SURETY_KEYS_FILE, or set SURETY_ALLOW_PUBLIC_WITHOUT_KEYS=true where something else "
        "keeps strangers out"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``, an address or a name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass
class _Usage:
    times: deque[float] = field(default_factory=deque)
    day: int = 0
    votes: int = 0


class Meter:
    """Counts requests and votes by key, and refuses what is over a key's limits.

    Any 60 seconds hold at most ``requests_per_minute`` requests. A day begins at midnight UTC. Votes are charged
    when an answer is given: who has any left may begin, and requests that run at once may overdraw together;
    one that is given up costs none. Counts are kept in memory, so a restart begins anew.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, clock: Callable[[], float] = time.time) -> None:
        self._monotonic, self._clock = monotonic, clock
        self._used: dict[str, _Usage] = {}

    def admit(self, key: KeyEntry, *, spends: bool) -> None:
        """Count a request; raises :class:`RateError` or :class:`BudgetError`, and then it is not counted."""
        usage, now = self._usage(key), self._monotonic()
        while usage.times and usage.times[0] <= now - MINUTE:
            usage.times.popleft()
        if key.requests_per_minute is not None and len(usage.times) >= key.requests_per_minute:
            # Where the limit was lowered, more than one of the last requests has to be a minute old.
            free = usage.times[len(usage.times) - key.requests_per_minute] + MINUTE
            raise RateError(
                f"this key may send {key.requests_per_minute} requests a minute",
                maximum=key.requests_per_minute,
                retry_after_seconds=max(math.ceil(free - now), 1),
            )
        if spends and self.is_spent(key):
            raise BudgetError(
                f"this key may use {key.votes_per_day} votes a day; the next day begins at midnight UTC",
                maximum=key.votes_per_day,
                retry_after_seconds=max(math.ceil(DAY - self._clock() % DAY), 1),
            )
        if key.requests_per_minute is not None:
            usage.times.append(now)

    def is_spent(self, key: KeyEntry) -> bool:
        """Whether no votes are left today."""
        return key.votes_per_day is not None and self._usage(key).votes >= key.votes_per_day

    def charge(self, key: KeyEntry, votes: int) -> None:
        """Count the votes of an answer."""
        self._usage(key).votes += votes

    def _usage(self, key: KeyEntry) -> _Usage:
        usage = self._used.setdefault(key.name, _Usage())
        today = int(self._clock() // DAY)
        if usage.day != today:
            usage.day, usage.votes = today, 0
        return usage


class Accounts:
    """The keys of one server and what they have used; on the event loop.

    Parameters
    ----------
    keyring : Keyring
    metrics : Metrics
    """

    def __init__(self, keyring: Keyring, metrics: Metrics) -> None:
        self.keyring, self.meter, self._metrics = keyring, Meter(), metrics

    def charge(self, key: KeyEntry, votes: int) -> None:
        """Count the votes of an answer."""
        self.meter.charge(key, votes)
        self._metrics.key_votes.labels(key.name).inc(votes)

    @property
    def unspent(self) -> list[str]:
        """Names of the valid keys that have votes left today."""
        return [key.name for key in self.keyring.entries.values() if not self.meter.is_spent(key)]


class Access:
    """Lets a request through if its key may make it; reads nothing but its head."""

    def __init__(self, app: ASGIApp, accounts: Accounts, *, metrics_open: bool) -> None:
        self._app, self._accounts = app, accounts
        self._open = OPEN | {"/metrics"} if metrics_open else OPEN

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http" or get_route_path(scope) in self._open:
            await self._app(scope, receive, send)
            return
        try:
            key = self._admit(scope)
        except RequestError as error:
            await problem_of(error, scope["path"])(scope, receive, send)
            return
        state = scope["surety"]
        try:
            await self._app(scope, receive, send)
        finally:
            self._accounts.charge(key, state.votes)

    def _admit(self, scope: Scope) -> KeyEntry:
        key = self._accounts.keyring.find(_presented(Headers(scope=scope)))
        scope["surety"].key, scope["surety"].scopes = key.name, key.scopes
        path = get_route_path(scope)  # as the router's: where the service lies below a prefix, without it
        for begin, needed in NEEDED.items():
            if path.startswith(begin):
                demand(scope, needed)
        spends = scope["method"] == "POST" and path.startswith(SPENDING)
        self._accounts.meter.admit(key, spends=spends)
        return key


def demand(scope: Scope, needed: frozenset[KeyScope]) -> None:
    """Raise :class:`ScopeError` if the request has a key, but one without any of these scopes."""
    given = scope["surety"].scopes
    if given is not None and needed.isdisjoint(given):
        one_of = " or ".join(f"'{one}'" for one in sorted(needed))
        raise ScopeError(f"this needs a key with the scope {one_of}", required={"scope": sorted(needed)})


def _presented(headers: Headers) -> str:
    """The key of a request, from either header."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    presented = value.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
    if not presented:
        raise UnauthenticatedError("send an API key: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
    return presented
