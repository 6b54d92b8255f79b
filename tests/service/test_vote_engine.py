"""Vote engines and what speaks to them, without a cluster: refusals, deadlines, deaths, and how many there shall be."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from certification.vocabulary import PlanError, StatisticsError, StoppedBy
from service.app import create_app
from service.autoscaling import QueueSeconds, wanted_engines
from service.computing import Computed, Order, Raised
from service.engine import Cancellation, Cancelled
from service.errors import EnginesDiedError, OverloadedError, VoteEnginesError
from service.progress import Progress
from service.settings import Settings, SettingsError
from service.vote_engine import Answer, VoteEngine

from .conftest import until
from .orders import OneProcess

ENDLESS: dict[str, Any] = {"model": "undecided", "guarantee": "individual", "attack_range": 10}


@pytest.fixture(scope="module")
def one_process(zoo: Path) -> OneProcess:
    return OneProcess(zoo)


def engine_of(one_process: OneProcess, **changes: Any) -> VoteEngine:
    settings = one_process.settings.model_copy(update=changes)
    return VoteEngine(one_process.registry, one_process.computer, settings)


@pytest.mark.parametrize(
    "error",
    [
        PlanError("too few draws", field="n", required={"n": 300}),
        StatisticsError("impossible"),
        OverloadedError("busy", retry_after_seconds=3),
        MemoryError(),
        MemoryError("of the device"),
        Cancelled(),
    ],
    ids=repr,
)
def test_a_refusal_comes_out_of_another_process_as_it_went_in(error: Exception) -> None:
    sent: Answer = pickle.loads(pickle.dumps(Answer(Raised.of(error), 1.0)))
    with pytest.raises(type(error)) as caught:
        sent.taken(2.0)
    assert (type(caught.value), str(caught.value)) == (type(error), str(error))
    assert vars(caught.value) == vars(error)


def test_an_answer_is_that_of_one_process_and_its_spans_are_moved(one_process: OneProcess) -> None:
    order = one_process.order(guarantee="heuristic")
    order.pixels.setflags(write=False)  # as Ray hands it over
    answer = asyncio.run(engine_of(one_process).compute(order, 60.0))
    taken = answer.taken(answer.at + 1000.0)
    assert isinstance(answer.found, Computed)
    assert taken.found == one_process.computer.compute(one_process.order(guarantee="heuristic"), Cancellation()).found
    for name, (begun, ended) in answer.found.spans.items():
        assert taken.spans[name] == pytest.approx((begun + 1000.0, ended + 1000.0))


def test_an_order_ends_when_its_seconds_are_over(one_process: OneProcess) -> None:
    for seconds in (0.0, 0.5):
        taken = asyncio.run(engine_of(one_process).compute(one_process.order(**ENDLESS), seconds)).taken(0.0)
        assert taken.found.stopped_by is StoppedBy.DEADLINE


def test_a_coroutine_that_is_cancelled_stops_its_run(one_process: OneProcess) -> None:
    engine = engine_of(one_process)

    async def give_up() -> None:
        run = asyncio.create_task(engine.compute(one_process.order(**ENDLESS), 600.0))
        while not (await engine.record_autoscaling_stats())["backlog_seconds"]:
            await asyncio.sleep(0.01)
        run.cancel()
        await asyncio.wait([run])
        assert run.cancelled()

    asyncio.run(give_up())
    until(lambda: asyncio.run(engine.record_autoscaling_stats())["backlog_seconds"] == 0.0)


def test_a_watched_order_tells_how_far_it_has_come(one_process: OneProcess) -> None:
    """And has the answer of one that is not."""
    order = one_process.order(guarantee="individual", attack_range=3)

    async def watch() -> list[Any]:
        return [told async for told in engine_of(one_process).watch(order, 60.0)]

    *news, answer = asyncio.run(watch())
    stages = [data["stage"] for kind, data in news if kind == "stage"]
    assert stages == sorted(set(stages), key=stages.index), "each as it first begins"
    assert {"bound", "estimate"} <= set(stages)
    assert {"votes", "p_lower", "radius"} <= next(data for kind, data in news if kind == "progress").keys()
    assert answer.taken(0.0).found == one_process.computer.compute(order, Cancellation()).found


def test_a_watched_order_that_is_called_off_stops_its_run(one_process: OneProcess) -> None:
    engine = engine_of(one_process)

    async def give_up() -> None:
        watching = engine.watch(one_process.order(**ENDLESS), 600.0)
        assert (await anext(watching))[0] == "stage"
        await watching.aclose()

    asyncio.run(give_up())
    until(lambda: asyncio.run(engine.record_autoscaling_stats())["backlog_seconds"] == 0.0)


def test_an_engine_refuses_what_would_wait_too_long(one_process: OneProcess) -> None:
    engine = engine_of(one_process, max_running=1, max_queue_seconds=1.0)

    async def overload() -> Answer:
        long = replace(one_process.order(**ENDLESS), seconds=100.0)
        first = asyncio.create_task(engine.compute(long, 4.0))
        await asyncio.sleep(0)
        second = await engine.compute(long, 600.0)
        stats = await engine.record_autoscaling_stats()
        assert 1.0 < stats["backlog_seconds"] <= 4.0  # until its deadline, whatever it asks for
        await first
        return second

    with pytest.raises(OverloadedError) as caught:
        asyncio.run(overload()).taken(0.0)
    assert caught.value.members["retry_after_seconds"] >= 1


@pytest.mark.parametrize("change", [{"digest": "0" * 64}, {"model": "no-such-model"}])
def test_an_engine_with_other_models_makes_no_run(one_process: OneProcess, change: dict[str, str]) -> None:
    answer = asyncio.run(engine_of(one_process).compute(replace(one_process.order(), **change), 60.0))
    with pytest.raises(VoteEnginesError, match="another version"):
        answer.taken(0.0)


@pytest.mark.parametrize(
    ("backlogs", "engines", "target", "wanted"),
    [
        ([5.0], 1, 5.0, 1.0),
        ([10.0, 10.0], 2, 5.0, 4.0),
        ([1.0, 0.0], 2, 5.0, 0.2),
        ([0.0], 3, 5.0, 0.0),
        ([10.0], 4, 5.0, 8.0),  # three have just started and have not reported
        ([], 3, 5.0, 3.0),
    ],
)
def test_engines_are_as_many_as_bring_each_the_target(
    backlogs: list[float], engines: int, target: float, wanted: float
) -> None:
    """By hand: all seconds of work over the seconds that one shall have."""
    assert wanted_engines(backlogs, engines, target) == pytest.approx(wanted)
    reported = {"backlog_seconds": dict(enumerate(backlogs))} if backlogs else None
    context: Any = SimpleNamespace(aggregated_metrics=reported, current_num_replicas=engines)
    assert QueueSeconds(target)(context) == (pytest.approx(wanted), {})


class Handle:
    """A deployment handle whose calls end as they are told to, one after another."""

    def __init__(self, one_process: OneProcess, *outcomes: Callable[[Order], Any]) -> None:
        self._engine, self.outcomes, self.cancelled = engine_of(one_process), list(outcomes), 0
        self.describe = SimpleNamespace(remote=lambda: SimpleNamespace(result=lambda: asyncio.run(self._facts())))
        self.compute = SimpleNamespace(remote=self._compute)
        self.watch = SimpleNamespace(remote=self._watch)

    async def _facts(self) -> Any:
        return await self._engine.describe()

    def _compute(self, order: Order, seconds_left: float) -> Any:
        outcome = self.outcomes.pop(0) if self.outcomes else self.answer

        def cancel() -> None:
            self.cancelled += 1

        return SimpleNamespace(result=lambda timeout_s: outcome(order), cancel=cancel)

    def options(self, *, stream: bool) -> Handle:
        assert stream
        return self

    def _watch(self, order: Order, seconds_left: float) -> Any:
        asked = self._compute(order, seconds_left)
        ended = threading.Event()

        def tell() -> Iterator[Any]:
            yield "stage", {"stage": "select"}
            try:
                answer = asked.result(timeout_s=None)
                if answer is not None:
                    yield answer
            except TimeoutError:
                assert ended.wait(60.0)

        class Stream:
            """As Ray's: an iterator that can be called off."""

            def __init__(self) -> None:
                self._told = tell()

            def __iter__(self) -> Iterator[Any]:
                return self._told

            def cancel(self) -> None:
                ended.set()
                asked.cancel()

        return Stream()

    def answer(self, order: Order) -> Answer:
        return asyncio.run(self._engine.compute(order, 600.0))


def dies(_: Order) -> None:
    from ray.exceptions import ActorDiedError

    raise ActorDiedError


def takes_long(_: Order) -> None:
    raise TimeoutError


def says_nothing(_: Order) -> None:
    """Of a stream: it ends without an answer."""


@pytest.fixture
def ray_computer() -> Any:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from service import ray_computer

    return ray_computer


ray_warns = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


watched = pytest.mark.parametrize("report", [None, Progress()], ids=["", "watched"])


@ray_warns
@watched
def test_an_order_whose_engine_dies_is_made_by_another(
    one_process: OneProcess, ray_computer: Any, report: Progress | None
) -> None:
    computer = ray_computer.RayComputer(Handle(one_process, dies))
    order = one_process.order(guarantee="heuristic")
    expected = one_process.computer.compute(order, Cancellation()).found
    assert computer.compute(order, Cancellation(), report).found == expected
    assert report is None or report.news() == [("stage", {"stage": "select"})]


@ray_warns
def test_a_stream_without_an_answer_is_an_error(one_process: OneProcess, ray_computer: Any) -> None:
    computer = ray_computer.RayComputer(Handle(one_process, says_nothing))
    with pytest.raises(VoteEnginesError, match="without an answer"):
        computer.compute(one_process.order(), Cancellation(), Progress())


@ray_warns
def test_an_order_under_which_engines_die_is_refused_and_no_other_one(
    one_process: OneProcess, ray_computer: Any
) -> None:
    handle = Handle(one_process, dies, dies)
    computer = ray_computer.RayComputer(handle)
    poisoned, other = one_process.order(guarantee="heuristic"), one_process.order(guarantee="heuristic", seed=1)
    for _ in range(2):
        with pytest.raises(EnginesDiedError, match="2 vote engines ended"):
            computer.compute(poisoned, Cancellation())
    assert handle.outcomes == []
    assert computer.compute(other, Cancellation()).found.label == 1


def test_deaths_are_forgotten_after_a_while_and_when_an_order_comes_through(ray_computer: Any) -> None:
    deaths = ray_computer.Deaths(most=1, forget_seconds=1.0)
    deaths.add(b"a")
    with pytest.raises(VoteEnginesError):
        deaths.check(b"a")
    deaths.check(b"b")
    time.sleep(1.1)
    deaths.check(b"a")
    deaths = ray_computer.Deaths(most=1, forget_seconds=600.0)
    deaths.add(b"a")
    deaths.clear(b"a")
    deaths.check(b"a")


@ray_warns
@watched
def test_an_order_is_called_off_at_the_engine_too(
    one_process: OneProcess, ray_computer: Any, monkeypatch: pytest.MonkeyPatch, report: Progress | None
) -> None:
    handle = Handle(one_process, takes_long, takes_long)
    computer = ray_computer.RayComputer(handle)
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(Cancelled):
        computer.compute(one_process.order(), cancellation, report)
    assert handle.cancelled == 1
    monkeypatch.setattr(ray_computer, "LATE_SECONDS", 0.0)
    with pytest.raises(VoteEnginesError, match="in time"):
        computer.compute(one_process.order(), Cancellation(time.monotonic()), report)
    assert handle.cancelled == 2


def test_the_same_secret_gives_the_same_noise_and_another_one_does_not(zoo: Path, one_process: OneProcess) -> None:
    """What several edges rely on."""
    order = one_process.order()
    assert OneProcess(zoo).order().replay == order.replay
    assert np.array_equal(OneProcess(zoo).order().pixels, order.pixels)
    one_process.certifier._secret = b"another"
    assert one_process.order().replay.key != order.replay.key


def test_a_secret_that_could_be_guessed_is_refused_and_not_shown(zoo: Path) -> None:
    with pytest.raises(SettingsError, match="SURETY_NOISE_SECRET has less than 32 characters") as caught:
        create_app(Settings(zoo=zoo, noise_secret="hunter2"))
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(Settings(noise_secret="hunter2"))
