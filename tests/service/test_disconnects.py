"""Clients that leave at every stage, with FIN and with RST; ``benchmarks.disconnects`` sends many more."""

from __future__ import annotations

import re

import pytest

from benchmarks.disconnects import STAGES, WAYS, Asked, attack
from benchmarks.probe import probing

from .conftest import Start, until
from .pictures import encode, grey
from .sockets import connect
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


JSON, MULTIPART = ("application/json", b'{"image": "AAAA'), ("multipart/form-data; boundary=x", b"--x\r\n")


@pytest.mark.parametrize(
    ("path", "begun"),
    [
        *((path, begun) for path in ("/v1/certify", "/v1/jobs") for begun in (JSON, MULTIPART)),
        ("/v2/models/constant-rotation/infer", JSON),
    ],
    ids=lambda one: one if isinstance(one, str) else one[0],
)
def test_a_client_that_leaves_within_its_body_is_no_fault_of_the_servers(
    start: Start, caplog: pytest.LogCaptureFixture, path: str, begun: tuple[str, bytes]
) -> None:
    content_type, sent = begun
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: 1000\r\n\r\n"
    with start() as server:
        with connect(server) as connection:
            connection.sendall(head.encode() + sent)
            until(lambda: "surety_requests_in_flight 2.0" in server.client.get("/metrics").text)
        until(lambda: "surety_requests_in_flight 1.0" in server.client.get("/metrics").text)
        text = server.client.get("/metrics").text
    assert re.findall(r'surety_requests_total{method="POST",route="[^"]*",status="(.*)"} 1.0', text) == ["499"]
    assert 'surety_problems_total{type="client_gone"} 1.0' in text
    assert [one.message for one in caplog.records if one.levelname == "ERROR"] == []
