"""Clients that leave at every stage, with FIN and with RST; ``benchmarks.disconnects`` sends many more."""

from __future__ import annotations

import pytest

from benchmarks.disconnects import STAGES, WAYS, Asked, attack
from benchmarks.probe import probing

from .conftest import Start
from .pictures import encode, grey
from .test_deadlines import SLOW, Slow

ASKED = Asked(
    [
        ("/v1/predict", {"guarantee": "heuristic"}),
        ("/v1/certify", {name: str(value) for name, value in SLOW.items()}),
    ],
    [encode(grey(), "PNG"), encode(grey(seed=1), "PNG")],
)


def test_clients_that_leave_leave_nothing_behind(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """No slot, no place in the queue, no request, no vote, no answer of 500; and health answered all the while."""
    Slow(monkeypatch)
    with start(max_running=2) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with probing(host, int(port)) as probed:
            found = attack(server.url, 80, ASKED)
        assert min(found["left_at"][f"{stage} {way}"] for stage in STAGES for way in WAYS) > 0
        assert found["largest_while_attacked"]["surety_running"] > 0
        assert set(found["left_behind"].values()) == {0}
        assert found["answers_500"] == 0
        assert len(probed.seconds) > 0
        assert server.certify(guarantee="heuristic").status_code == 200
