"""Runs on a Ray cluster: the edge's half of the boundary. Needs the extra ``ray``."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from .computing import Computed, Machine, Order
from .engine import Cancellation, Cancelled
from .errors import EnginesDiedError, VoteEnginesError
from .progress import Report
from .vote_engine import Answer, Facts, VoteEngine

logger = logging.getLogger("surety")

LOOK_SECONDS = 0.1
"""Between two looks at whether an answer is still waited for."""
LATE_SECONDS = 30.0
"""After an order's time is up: for the batch that an engine is at, or for an engine to start where there is none."""
RETRY_SECONDS = 30
MOST_DEATHS = 2
FORGET_SECONDS = 600.0


class Deaths:
    """How many engines have ended while they had an order: one that ends all it meets must not meet them all.

    Orders are told apart by their noise key, which follows from image, model and plan. One that comes through is
    forgotten, and so is each death after a while.

    Parameters
    ----------
    most : int
        Deaths after which an order is sent to no engine any more.
    forget_seconds : float
    """

    def __init__(self, most: int = MOST_DEATHS, forget_seconds: float = FORGET_SECONDS) -> None:
        self._most, self._forget_seconds = most, forget_seconds
        self._deaths: deque[tuple[float, bytes]] = deque()
        self._lock = threading.Lock()

    def add(self, key: bytes) -> None:
        """An engine has ended while it had this order."""
        with self._lock:
            self._deaths.append((time.monotonic(), key))

    def clear(self, key: bytes) -> None:
        """The order came through."""
        with self._lock:
            if self._deaths:
                self._deaths = deque(death for death in self._deaths if death[1] != key)

    def check(self, key: bytes) -> None:
        """Raise :class:`EnginesDiedError` if the order has met enough engines."""
        with self._lock:
            while self._deaths and self._deaths[0][0] < time.monotonic() - self._forget_seconds:
                self._deaths.popleft()
            met = sum(known == key for _, known in self._deaths)
        if met >= self._most:
            raise EnginesDiedError(
                f"{met} vote engines ended while they computed this request: it is not tried again for now",
                retry_after_seconds=int(self._forget_seconds),
            )


class RayComputer:
    """Sends orders to the vote engines of a deployment; see :class:`~service.computing.Computer`.

    An order whose engine dies is sent to another one: it has its noise with it, so the answer is the same. The
    engines are alike: what the first one says of its machine is taken for all of them. The time of an order that was
    sent cannot be cut short any more, it can only be called off.

    Parameters
    ----------
    engines : DeploymentHandle
        Of :class:`~service.vote_engine.VoteEngine`; waits until there is one.
    """

    def __init__(self, engines: DeploymentHandle[VoteEngine]) -> None:
        self._engines, self._deaths = engines, Deaths()
        self._facts: Facts = engines.describe.remote().result()

    @property
    def machine(self) -> Machine:
        """See Computer."""
        return self._facts.machine

    def vote_seconds(self) -> Mapping[str, float]:
        """As an engine has measured it at its start."""
        return self._facts.vote_seconds

    def check_ready(self) -> None:
        """Serve starts engines again, and orders wait for them."""

    def close(self) -> None:
        """The engines are Serve's."""

    def compute(self, order: Order, cancellation: Cancellation, report: Report | None = None) -> Computed:
        """See Computer.

        Raises
        ------
        OverloadedError
            If an engine has too much to do.
        EnginesDiedError
            If engines died under the order.
        VoteEnginesError
            If none answered.
        """
        key = order.replay.key
        while True:
            self._deaths.check(key)
            try:
                computed = self._ask(order, cancellation, report)
            except RayActorError as error:
                self._deaths.add(key)
                logger.warning("a vote engine ended while it computed for %s: %s", order.model, error)
            else:
                self._deaths.clear(key)
                return computed

    def _ask(self, order: Order, cancellation: Cancellation, report: Report | None) -> Computed:
        left = cancellation.deadline - time.monotonic()
        asked = _Plain(self._engines, order, left) if report is None else _Watched(self._engines, order, left, report)
        while True:
            try:
                return asked.answer(LOOK_SECONDS).taken(time.monotonic())
            except TimeoutError:
                pass
            except DeploymentUnavailableError as error:
                raise VoteEnginesError("no vote engine runs", retry_after_seconds=RETRY_SECONDS) from error
            try:
                cancellation.check_wanted()
                if time.monotonic() > cancellation.deadline + LATE_SECONDS:
                    raise VoteEnginesError("no vote engine answered in time", retry_after_seconds=RETRY_SECONDS)
            except (Cancelled, VoteEnginesError):
                asked.response.cancel()
                raise


class _Plain:
    """An order that was sent."""

    def __init__(self, engines: DeploymentHandle[VoteEngine], order: Order, seconds_left: float) -> None:
        self.response: Any = engines.compute.remote(order, seconds_left)

    def answer(self, seconds: float) -> Answer:
        """Wait for it so long; raises TimeoutError."""
        return self.response.result(timeout_s=seconds)  # type: ignore[no-any-return]


class _Watched:
    """An order that was sent, of which news come before the answer; a thread of its own takes them."""

    def __init__(
        self, engines: DeploymentHandle[VoteEngine], order: Order, seconds_left: float, report: Report
    ) -> None:
        self.response: Any = engines.options(stream=True).watch.remote(order, seconds_left)
        self._answer = Future[Answer]()
        threading.Thread(target=self._listen, args=(report,), name="ray-news", daemon=True).start()

    def answer(self, seconds: float) -> Answer:
        """Wait for it so long; raises TimeoutError."""
        return self._answer.result(seconds)

    def _listen(self, report: Report) -> None:
        try:
            for told in self.response:
                if isinstance(told, Answer):
                    self._answer.set_result(told)
                else:
                    report(told)
            if not self._answer.done():
                raise VoteEnginesError("a vote engine ended without an answer", retry_after_seconds=RETRY_SECONDS)
        except BaseException as error:
            if not self._answer.done():
                self._answer.set_exception(error)
