"""The clients and the commands: against real servers, and against replies that no good server gives."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import pickle
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import service.client
import service.commands
import service.schemas
from certification.effort import MAX_DRAWS
from service.cli import main
from service.client import AsyncClient, BadReply, Client, Refused, Unreachable
from service.schemas import BoundsQuery, CertifyFields, HealthReply, PredictFields
from service.upload import file_bytes

from .conftest import Running, Start
from .pictures import SIDE, colour, encode, grey

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()
READY = {"status": "ready", "version": "0"}
PROBLEM = {
    "type": "urn:surety:problem:overloaded",
    "title": "The server is busy",
    "status": 429,
    "detail": "all permits are taken",
    "instance": "/v1/certify",
}
DIGIT = encode(grey(), "PNG")
Ask = Callable[..., Any]
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """``ask(url, "certify", image, n=100)``: a client's method, by either client; ``settings`` are the client's."""

    def blocking(url: str, name: str, *arguments: Any, settings: dict[str, Any] | None = None, **fields: Any) -> Any:
        with Client(url, **settings or {}) as client:
            return getattr(client, name)(*arguments, **fields)

    def awaited(url: str, name: str, *arguments: Any, settings: dict[str, Any] | None = None, **fields: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(url, **settings or {}) as client:
                return await getattr(client, name)(*arguments, **fields)

        return asyncio.run(run())

    return blocking if request.param == "sync" else awaited


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that clients wished to wait; they do not."""
    asked: list[float] = []

    async def sleep(seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr(service.client, "time", SimpleNamespace(sleep=asked.append))
    monkeypatch.setattr(service.client, "asyncio", SimpleNamespace(sleep=sleep, to_thread=asyncio.to_thread))
    return asked


class Script:
    """Answers requests with one response or exception after the other, the last one for ever; keeps the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers, self.requests = list(answers), []
        self.transport = httpx.MockTransport(self)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def settings(self, **more: Any) -> dict[str, Any]:
        """A client's, to talk to this script."""
        return {"transport": self.transport, **more}


def busy(status: int = 429, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=named, json={**PROBLEM, "status": status})


# Against a real server


def test_answers_are_the_servers(server: Running, ask: Ask) -> None:
    fields = {"guarantee": "individual", "attack_range": 12.0, "alpha": 0.005}
    for name in ("certify", "predict"):
        given = fields if name == "certify" else {"alpha": 0.005, "n0": 50}
        raw = server.post(f"/v1/{name}", **given).json()
        reply = ask(server.url, name, DIGIT, **given).model_dump(mode="json")
        assert reply.pop("seconds").keys() == raw.pop("seconds").keys()
        assert reply.pop("certificate_id", None) != raw.pop("certificate_id", "")
        assert reply == raw
    for name, path in (("models", "/v1/models"), ("bounds", "/v1/bounds"), ("ready", "/health/ready")):
        assert ask(server.url, name).model_dump(mode="json") == server.client.get(path).json()
    raw = server.client.get("/v1/models/rgb").json()
    assert ask(server.url, "model", "rgb").model_dump(mode="json") == raw
    (bound,) = ask(server.url, "bounds", transformation="translation").bounds
    assert bound.model == "constant-translation"


def test_every_kind_of_image_gets_the_same_answer(server: Running, ask: Ask, tmp_path: Path) -> None:
    """The counts depend on the noise, and the noise on every pixel."""
    path = tmp_path / "digit.png"
    path.write_bytes(DIGIT)
    array = grey()
    images = [DIGIT, path, str(path), array, array[:, :, None], Image.fromarray(array), np.stack([array] * 3, axis=2)]
    fields = {"model": "undecided", "transformation": "l2", "n": 300, "procedure": "paper"}
    answers = [ask(server.url, "predict", image, **fields).counts for image in images]
    assert answers == [answers[0]] * len(images)
    other = ask(server.url, "predict", grey(seed=1), **fields).counts
    assert other != answers[0]


def test_refusals_are_typed(server: Running, ask: Ask) -> None:
    with pytest.raises(Refused) as caught:
        ask(server.url, "certify", grey(7, 5))
    refusal = caught.value
    assert (refusal.status, refusal.type, refusal.label) == (422, "urn:surety:problem:image_shape", "image_shape")
    assert refusal.title == "The image has the wrong size for the model"
    assert "7 x 5" in refusal.detail
    assert refusal.members == {"field": "image", "expected": [SIDE, SIDE], "actual": [7, 5]}
    assert refusal.retry_after is None
    assert re.fullmatch("[0-9a-f]{32}", refusal.request_id or "")
    assert refusal.request_id in str(refusal)
    with pytest.raises(Refused) as caught:
        ask(server.url, "model", "no such/model?")
    assert (caught.value.status, caught.value.label) == (404, "not_found")


def test_fields_unknown_to_the_client_reach_the_server(server: Running, ask: Ask) -> None:
    with pytest.raises(Refused) as caught:
        ask(server.url, "certify", DIGIT, no_such_field=3)
    assert (caught.value.label, caught.value.members["field"]) == ("invalid_field", "no_such_field")
    with pytest.raises(Refused, match="attack_range"):
        ask(server.url, "predict", DIGIT, attack_range=3)


def test_a_server_that_drains_is_asked_again(start: Start, ask: Ask, pauses: list[float]) -> None:
    with start() as server:
        server.services.engine.drain()
        with pytest.raises(Refused) as caught:
            ask(server.url, "certify", DIGIT, settings={"retries": 2})
    assert (caught.value.status, caught.value.label) == (503, "draining")
    assert pauses == [caught.value.retry_after] * 2


# Names and types


def test_the_clients_name_every_field_the_server_has() -> None:
    for method, fields in (("certify", CertifyFields), ("predict", PredictFields), ("bounds", BoundsQuery)):
        for client in (Client, AsyncClient):
            names = set(inspect.signature(getattr(client, method)).parameters)
            assert names - {"self", "image", "more"} == set(fields.model_fields), method


def test_the_limit_of_draws_is_the_plans() -> None:
    assert service.schemas.MAX_DRAWS == MAX_DRAWS


def test_the_client_and_the_commands_import_no_heavy_package() -> None:
    script = "import sys, service.client, service.commands; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    loaded = set(found.split())
    assert "service.client" in loaded
    assert not loaded & {"torch", "numba", "scipy", "numpy", "PIL", "fastapi", "starlette", "uvicorn", "service.app"}


# Images


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_images_are_sent_without_loss(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray((np.arange(60, dtype=np.uint16) * 1000).reshape(6, 10))
    else:
        image = Image.fromarray(colour(6, 10)).convert(mode)
    with Image.open(io.BytesIO(file_bytes(image))) as sent:
        assert sent.format == "PNG"
        assert (
            sent.convert("RGBA" if mode != "I;16" else mode).tobytes()
            == image.convert("RGBA" if mode != "I;16" else mode).tobytes()
        )


def test_an_opened_photograph_is_sent_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right side
    photograph = Image.open(io.BytesIO(encode(grey(4, 6), "PNG", exif=exif)))
    with Image.open(io.BytesIO(file_bytes(photograph))) as sent:
        assert np.array_equal(np.asarray(sent), np.rot90(grey(4, 6), -1))
        assert not sent.getexif()


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (grey().astype(np.float32), ValueError),
        (np.zeros((2, 2, 5), np.uint8), ValueError),
        (np.zeros((0, 4), np.uint8), ValueError),
        (np.zeros(4, np.uint8), ValueError),
        (Image.new("F", (3, 3)), ValueError),
        (Image.new("CMYK", (3, 3)), ValueError),
        (Path("no/such/file.png"), FileNotFoundError),
        (3, TypeError),
        (None, TypeError),
    ],
)
def test_what_is_no_image_is_refused_before_it_is_sent(image: Any, error: type[Exception], ask: Ask) -> None:
    script = Script(httpx.Response(200, json=READY))
    with pytest.raises(error):
        ask("http://there", "certify", image, settings=script.settings())
    assert not script.requests


# Retries, the time, and replies that are none


def test_the_key_is_sent_as_a_bearer_token(ask: Ask) -> None:
    script = Script(httpx.Response(200, json=READY))
    ask("http://there/under/", "ready", settings=script.settings(api_key="s3cret"))
    ask("http://there", "ready", settings=script.settings())
    with_key, without = script.requests
    assert str(with_key.url) == "http://there/under/health/ready"
    assert with_key.headers["authorization"] == "Bearer s3cret"
    assert "authorization" not in without.headers


def test_retry_after_is_honoured_as_seconds_and_as_a_date(ask: Ask, pauses: list[float]) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    answers = busy(retry_after="2"), busy(503, retry_after="0"), busy(retry_after=date)
    script = Script(*answers, httpx.Response(200, json=READY))
    assert ask("http://there", "ready", settings=script.settings(retries=3)) == HealthReply(**READY)
    assert len(script.requests) == 4
    assert pauses[:2] == [2.0, 0.0]
    assert 0.0 < pauses[2] <= 60.0


def test_the_whole_request_is_sent_again(ask: Ask, pauses: list[float]) -> None:
    script = Script(busy(retry_after="1"), busy(400))
    with pytest.raises(Refused):
        ask("http://there", "certify", DIGIT, n=7, settings=script.settings())
    first, second = (request.content for request in script.requests)
    assert all(DIGIT in body and b'name="n"\r\n\r\n7\r\n' in body for body in (first, second))


def test_retries_end(ask: Ask, pauses: list[float]) -> None:
    script = Script(busy(retry_after="1"))
    with pytest.raises(Refused) as caught:
        ask("http://there", "ready", settings=script.settings(retries=2))
    assert (caught.value.status, caught.value.retry_after) == (429, 1.0)
    assert (len(script.requests), pauses) == (3, [1.0, 1.0])


def test_no_wait_that_is_longer_than_the_time_left(ask: Ask, pauses: list[float]) -> None:
    script = Script(busy(retry_after="60"))
    with pytest.raises(Refused) as caught:
        ask("http://there", "ready", settings=script.settings(timeout=59.0))
    assert caught.value.retry_after == 60.0
    assert (len(script.requests), pauses) == (1, [])


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow")])
def test_connections_that_were_not_made_are_tried_again(ask: Ask, pauses: list[float], error: Exception) -> None:
    script = Script(error, error, httpx.Response(200, json=READY))
    assert ask("http://there", "ready", settings=script.settings()).status == "ready"
    assert len(pauses) == 2
    script = Script(error)
    with pytest.raises(Unreachable, match=r"http://there/health/ready.*(refused|slow)"):
        ask("http://there", "ready", settings=script.settings(retries=1))
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (busy(503), Refused),
        (busy(429, retry_after="soon"), Refused),
        (busy(500, retry_after="1"), Refused),
        (busy(422, retry_after="1"), Refused),
        (httpx.ReadTimeout("slow"), Unreachable),
        (httpx.RemoteProtocolError("gone"), Unreachable),
        (httpx.ReadError(""), Unreachable),
    ],
    ids=str,
)
def test_nothing_else_is_tried_again(ask: Ask, pauses: list[float], answer: Any, error: type[Exception]) -> None:
    script = Script(answer)
    with pytest.raises(error, match=r"\w\)?$"):
        ask("http://there", "ready", settings=script.settings())
    assert (len(script.requests), pauses) == (1, [])


NO_REPLIES = {
    "a page": httpx.Response(200, html="<h1>hello</h1>"),
    "nothing": httpx.Response(200),
    "half a reply": httpx.Response(200, text='{"status": "rea'),
    "a list": httpx.Response(200, json=[]),
    "wrong types": httpx.Response(200, json={"status": 3, "version": ["0"]}),
    "not UTF-8": httpx.Response(200, content=b'{"status": "\xff", "version": "0"}'),
    "a redirect": httpx.Response(301, headers={"location": "http://elsewhere/"}),
}


@pytest.mark.parametrize("reply", NO_REPLIES.values(), ids=NO_REPLIES)
def test_a_reply_that_is_none_of_ours_is_said(ask: Ask, reply: httpx.Response) -> None:
    with pytest.raises(BadReply, match="http://there/health/ready"):
        ask("http://user:secret@there", "ready", settings=Script(reply).settings())


@pytest.mark.parametrize(
    "content", [b"<h1>Bad Gateway</h1>", b"", b"null", b'{"error": "x"}', b'{"type": 3, "status": "x"}', b"\xff"]
)
def test_a_refusal_without_a_problem_is_told_by_its_status(ask: Ask, content: bytes) -> None:
    script = Script(httpx.Response(502, content=content, headers={"x-request-id": "r1"}))
    with pytest.raises(Refused) as caught:
        ask("http://there", "ready", settings=script.settings())
    refusal = caught.value
    assert (refusal.status, refusal.type, refusal.title) == (502, "about:blank", "Bad Gateway")
    assert (refusal.members, refusal.request_id) == ({}, "r1")


def test_the_status_is_the_one_that_arrived(ask: Ask) -> None:
    with pytest.raises(Refused) as caught:
        ask("http://there", "ready", settings=Script(httpx.Response(502, json=PROBLEM)).settings())
    assert (caught.value.status, caught.value.label) == (502, "overloaded")


@pytest.fixture
def raw_server() -> Iterator[Callable[[bytes | None], tuple[str, threading.Event]]]:
    """``raw_server(reply)``: URL of a socket that sends these bytes and closes, or waits where there are none."""
    listeners: list[socket.socket] = []
    kept: list[socket.socket] = []

    def begin(reply: bytes | None) -> tuple[str, threading.Event]:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        arrived = threading.Event()

        def serve() -> None:
            peer, _ = listener.accept()
            peer.recv(65536)
            arrived.set()
            if reply is None:
                kept.append(peer)
            else:
                peer.sendall(reply)
                peer.close()

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}", arrived

    yield begin
    for one in (*listeners, *kept):
        one.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"",
    ],
    ids=["truncated", "not gzip", "not HTTP", "closed"],
)
def test_broken_connections_are_unreachable(ask: Ask, raw_server: Any, reply: bytes) -> None:
    url, _ = raw_server(reply)
    with pytest.raises(Unreachable):
        ask(url, "ready")


def test_the_time_is_limited(ask: Ask, raw_server: Any) -> None:
    url, arrived = raw_server(None)
    with pytest.raises(Unreachable):
        ask(url, "ready", settings={"timeout": 0.3})
    assert arrived.wait(30)


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "127.0.0.1:8000"},
        {"base_url": "ftp://there"},
        {"base_url": "http://"},
        {"base_url": "http://there:port"},
        {"api_key": ""},
        {"api_key": "secret\n"},
        {"api_key": "sécret"},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"retries": -1},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_wrong_settings_are_refused_without_the_key(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"base_url|api_key|timeout|retries") as caught:
        kind(**{"base_url": "http://there", **settings})
    assert "cret" not in str(caught.value)


def test_exceptions_pass_between_processes() -> None:
    with pytest.raises(Refused) as caught, Client("http://there", **Script(busy(400)).settings()) as client:
        client.ready()
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.status, again.members) == (str(caught.value), 400, caught.value.members)


# The commands


@pytest.fixture
def images(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a good image, a large one and a text; the server is named by the environment."""
    (tmp_path / "good.png").write_bytes(DIGIT)
    (tmp_path / "black.png").write_bytes(encode(np.zeros((SIDE, SIDE), np.uint8), "PNG"))
    (tmp_path / "large.png").write_bytes(encode(grey(30, 30), "PNG"))
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SURETY_URL", server.url)
    monkeypatch.delenv("SURETY_API_KEY", raising=False)
    return tmp_path


def mocked(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    """Commands ask the script."""
    monkeypatch.setattr(service.commands, "Client", partial(Client, transport=script.transport, retries=0))


CERTIFY = "certify good.png --guarantee individual --range 12 --image-is reference --wanted-radius 5"


def test_a_certificate_is_one_line(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(CERTIFY.split()) == 0
    told = capsys.readouterr()
    assert told.err == ""
    (line,) = told.out.splitlines()
    assert line.startswith("good.png: class one, radius ")
    for part in ("degrees (", "individual guarantee", "reference image", "nested classifier", " votes, ", " s"):
        assert part in line


def test_json_is_the_reply_with_the_file(server: Running, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"guarantee": "individual", "attack_range": 12, "image_is": "reference", "wanted_radius": 5}
    raw = server.certify(**fields).json()
    assert main([*CERTIFY.split(), "--json"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    said = json.loads(told.out)
    assert said.pop("file") == "good.png"
    assert said.pop("seconds").keys() == raw.pop("seconds").keys()
    assert said.pop("certificate_id") != raw.pop("certificate_id")
    assert said == raw


def test_every_option_reaches_the_server(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Script(busy(422))
    mocked(monkeypatch, script)
    options = {
        "model": "m", "transformation": "l2", "guarantee": "heuristic", "range": "3", "image-is": "received",
        "alpha": "0.02", "wanted-radius": "2", "estimator": "joint",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    assert main(["certify", "good.png", "--api-key", "k", "--url", "http://there", *words]) == 4
    (request,) = script.requests
    body = request.content.decode("latin-1")
    sent = dict(re.findall(r'name="(\w+)"\r\n\r\n(.*?)\r\n', body))
    named = {"range": "attack_range", "image-is": "image_is", "wanted-radius": "wanted_radius"}
    expected = {named.get(name, name): value for name, value in options.items()}
    numbers = {"attack_range": "3.0", "wanted_radius": "2.0"}
    assert sent == {**expected, **numbers}
    assert (request.url.host, request.headers["authorization"]) == ("there", "Bearer k")
    assert "busy" in capsys.readouterr().err


def test_an_abstention_says_why(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "black.png --model undecided --transformation l2 --alpha 1e-6"
    assert main(["certify", *words.split(), "--range", ".01"]) == 3
    out = capsys.readouterr().out
    assert re.match(r"black\.png: abstained: \w+.*, individual guarantee, received image, .* votes", out), out
    assert main(["predict", *words.split()]) == 3
    assert capsys.readouterr().out.startswith("black.png: abstained: ")


def test_a_label_and_no_proof(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "good.png", "--guarantee", "heuristic"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("good.png: class one, heuristic guarantee (no proof), ")
    assert "radius" not in out


def test_the_radius_shown_is_never_more_than_certified(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], server: Running
) -> None:
    reply = {**server.certify(guarantee="heuristic").json(), "radius": 9.99999, "covers_attack_range": False}
    mocked(monkeypatch, Script(httpx.Response(200, json=reply)))
    assert main(["certify", "good.png"]) == 0
    assert "radius 9.999 degrees (short of the range 30)" in capsys.readouterr().out


def test_one_failure_does_not_stop_the_others(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["large.png", "good.png", "absent.png", "folder"]
    assert main(["predict", *names, "--guarantee", "heuristic"]) == 2
    told = capsys.readouterr()
    assert told.out.startswith("good.png: class one")
    refused, absent, folder = told.err.splitlines()
    assert refused.startswith("large.png: The image has the wrong size")
    assert absent == "absent.png: No such file or directory"
    assert folder == "folder: is a directory: name the images in it"

    assert main(["predict", *names, "--guarantee", "heuristic", "--json"]) == 2
    told = capsys.readouterr()
    said = [json.loads(line) for line in told.out.splitlines()]
    assert told.err == ""
    assert [one["file"] for one in said] == names
    assert [one.get("error", {}).get("type") for one in said] == [
        "urn:surety:problem:image_shape", None, "unreadable", "unreadable",
    ]  # fmt: skip
    assert said[0]["error"]["expected"] == [SIDE, SIDE]
    assert said[0]["error"]["status"] == 422


STATUSES = (0, 3, 4, 2, 5)
"""Mildest first, as docs/client.md says."""


@pytest.mark.parametrize(("first", "second"), list(product(STATUSES, STATUSES)))
def test_the_worst_image_decides(
    server: Running, images: Path, monkeypatch: pytest.MonkeyPatch, first: int, second: int
) -> None:
    label = server.predict(guarantee="heuristic").json()
    none = {**label, "abstained": True, "label": None, "class_name": None, "reason": "it was made up"}
    replies = {0: httpx.Response(200, json=label), 3: httpx.Response(200, json=none), 4: busy(422), 5: busy(429)}
    mocked(monkeypatch, Script(*(replies[status] for status in (first, second) if status in replies), busy(400)))
    names = ["absent.png" if status == 2 else "good.png" for status in (first, second)]
    assert main(["predict", *names]) == max(first, second, key=STATUSES.index)


@pytest.mark.parametrize(
    "answer",
    [
        *(pytest.param(reply, id=name) for name, reply in NO_REPLIES.items()),
        busy(429, retry_after="1"),
        busy(503),
        httpx.Response(502, html="<h1>Bad Gateway</h1>"),
        httpx.ReadTimeout("slow"),
        httpx.ConnectError("refused"),
    ],
    ids=str,
)
def test_a_server_that_gives_no_answer_is_5_and_no_traceback(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: Any
) -> None:
    mocked(monkeypatch, Script(answer))
    assert main(["predict", "good.png"]) == 5
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(r"good\.png: .+\n", told.err)
    assert main(["predict", "good.png", "--json"]) == 5
    told = capsys.readouterr()
    assert told.err == ""
    assert json.loads(told.out)["error"]["detail"]


@pytest.mark.parametrize(
    "words",
    [
        "certify",
        "certify good.png --guarantee certain",
        "certify good.png --range wide",
        "predict good.png --range 3",
        "certify good.png --model \udcff",
        "certify good.png --url there",
        "certify good.png --api-key s\u00e9cret",
        "certify good.png --timeout 0",
    ],
)
def test_usage_errors_are_2(images: Path, capsys: pytest.CaptureFixture[str], words: str) -> None:
    try:
        status = main(words.split())
    except SystemExit as ended:
        status = ended.code
    told = capsys.readouterr()
    assert (status, told.out) == (2, "")
    assert "surety" in told.err
    assert "cret" not in told.err


def test_names_of_files_stay_on_their_line(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["two\nlines.png", "bytes\udcff.png"]
    for name in names:
        (images / name).write_bytes(DIGIT)
    assert main(["predict", *names, "--guarantee", "heuristic"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(r"two\nlines.png: class one")
    assert second.startswith(r"bytes\udcff.png: class one")
    assert main(["predict", *names, "--guarantee", "heuristic", "--json"]) == 0
    assert [json.loads(line)["file"] for line in capsys.readouterr().out.splitlines()] == names


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("count", "shape"), [(1, r"good\.png: 00:0\d"), (2, r"good\.png: .*\| 1/2 \[00:0\d<.*image")])
def test_progress_is_shown_on_a_terminal(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], count: int, shape: str
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(service.commands, "TICK_SECONDS", 0.01)
    assert main(["predict", *["good.png"] * count, "--guarantee", "heuristic"]) == 0
    assert re.search(shape, terminal.getvalue()), terminal.getvalue()
    assert len(capsys.readouterr().out.splitlines()) == count


def command(*words: str, **more: Any) -> subprocess.Popen[bytes]:
    """``surety`` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "service.cli", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, **more,
    )  # fmt: skip


def test_standard_input(images: Path) -> None:
    with command("predict", "-", "--guarantee", "heuristic", "--json") as process:
        out, err = process.communicate(DIGIT, timeout=60)
    assert (process.returncode, err) == (0, b"")
    said = json.loads(out)
    assert (said["file"], said["class_name"]) == ("-", "one")


def test_interrupting_is_130(images: Path, raw_server: Any) -> None:
    url, arrived = raw_server(None)
    # as a terminal starts it: whoever runs the tests in the background has SIGINT ignored in all of them
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with command("certify", str(images / "good.png"), "--url", url, preexec_fn=heeded) as process:
        assert arrived.wait(60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_reader_that_left_is_141(images: Path) -> None:
    with command("predict", str(images / "good.png"), "--guarantee", "heuristic") as process:
        process.stdout.close()
        process.wait(60)
        err = process.stderr.read()
    assert (process.returncode, err) == (141, b"")


# The page


def test_the_page_and_the_help_name_the_same_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["certify", "--help"])
    shown = capsys.readouterr().out.split("exit status")[1]
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", PAGE, re.M))
    assert dict(re.findall(r"^  (\d+) +(.+)$", shown, re.M)) == rows
    order = ", ".join(map(str, STATUSES))
    assert f"in the order {order}" in shown
    assert f"in the order {order}" in PAGE


def test_the_examples_of_the_page_and_of_the_readme_run(
    start: Start, mnist_zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the root of the repository, against a server at another address."""
    readme = (ROOT / "README.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", PAGE + readme, re.S)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE + readme, re.S) for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("surety ")]
    assert (len(examples), len(commands)) == (3, 4)
    monkeypatch.chdir(ROOT)
    with start(zoo=mnist_zoo) as server:
        for example in examples:
            exec(example.replace("http://127.0.0.1:8000", server.url), {"__name__": "__main__"})
        out = capsys.readouterr().out
        assert "one " in out
        assert "404 unknown_model" in out or "422 invalid_field" in out
        monkeypatch.setenv("SURETY_URL", server.url)
        for line in commands:
            words, _, source = line.partition(" < ")
            data = Path(source).read_bytes() if source else b""
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
            assert main(shlex.split(words)[1:]) == 0, line
