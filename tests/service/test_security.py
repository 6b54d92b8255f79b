"""Scopes, limits, headers, and what strangers and logs get to know."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

import service.computing
import service.keys
from certification import __version__
from service.access import NEEDED, OPEN, Meter, check_exposure, is_loopback
from service.app import create_app
from service.cli import main
from service.headers import SECURITY_HEADERS
from service.keys import Scope, make_key, read_keys, write_keys
from service.settings import Settings, SettingsError

from .conftest import Running, Start, until
from .pictures import encode, grey
from .sockets import connect, everything

IMAGE = encode(grey(), "PNG")
LIMITS: dict[str, dict[str, Any]] = {
    "reader": {"scopes": [Scope.PREDICT]},
    "writer": {"scopes": [Scope.CERTIFY]},
    "scraper": {"scopes": [Scope.ADMIN]},
    "hurried": {"scopes": [Scope.PREDICT], "requests_per_minute": 2},
    "poor": {"scopes": [Scope.CERTIFY], "votes_per_day": 1},
    "old": {"scopes": list(Scope), "expires": datetime.now(UTC) - timedelta(seconds=1)},
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A file of keys, and the keys by name."""
    made = {name: make_key(name, **how) for name, how in LIMITS.items()}
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    write_keys(path, {name: entry for name, (_, entry) in made.items()})
    return path, {name: key for name, (key, _) in made.items()}


@pytest.fixture(scope="module")
def guarded(start: Start, keys: tuple[Path, dict[str, str]]) -> Iterator[Running]:
    with start(keys_file=keys[0]) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def send(server: Running, method: str, path: str, **headers: str) -> httpx.Response:
    """A request that is good but for its key."""
    files = {"image": ("image", IMAGE)} if method == "POST" else None
    data = {"guarantee": "heuristic"} if method == "POST" else None
    return server.client.request(method, path, headers=headers, files=files, data=data)


# limits


def test_over_its_rate_a_key_gets_429(guarded: Running, keys: tuple[Path, dict[str, str]]) -> None:
    statuses = [send(guarded, "GET", "/v1/models", **bearer(keys[1]["hurried"])).status_code for _ in range(2)]
    refused = send(guarded, "POST", "/v1/predict", **bearer(keys[1]["hurried"]))
    assert (statuses, refused.status_code, refused.json()["type"]) == ([200, 200], 429, "urn:surety:problem:rate")
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert send(guarded, "GET", "/v1/models", **bearer(keys[1]["reader"])).status_code == 200


def test_votes_are_charged_as_the_reply_counts_them(guarded: Running, keys: tuple[Path, dict[str, str]]) -> None:
    answered = send(guarded, "POST", "/v1/certify", **bearer(keys[1]["poor"]))
    assert answered.status_code == 200
    votes = answered.json()["counts"]["votes"]
    refused = send(guarded, "POST", "/v1/certify", **bearer(keys[1]["poor"]))
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:surety:problem:budget")
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    assert send(guarded, "GET", "/v1/models", **bearer(keys[1]["poor"])).status_code == 200
    scraped = send(guarded, "GET", "/metrics", **bearer(keys[1]["scraper"])).text
    assert f'surety_key_votes_total{{key="poor"}} {float(votes)}' in scraped


# who may do what


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/predict", {"reader", "writer"}),
        ("POST", "/v1/certify", {"writer"}),
        ("GET", "/v2/models/constant-rotation", {"reader", "writer"}),
        ("GET", "/v2", {"reader", "writer", "scraper"}),
        ("GET", "/metrics", {"scraper"}),
        ("HEAD", "/metrics", {"scraper"}),
        ("GET", "/v1/models", {"reader", "writer", "scraper"}),
        ("GET", "/v1/models/constant-rotation", {"reader", "writer", "scraper"}),
        ("GET", "/v1/bounds", {"reader", "writer", "scraper"}),
        ("GET", "/docs", {"reader", "writer", "scraper"}),
        ("GET", "/openapi.json", {"reader", "writer", "scraper"}),
        # A router matches these too: a line feed at the end is no way around a scope.
        ("POST", "/v1/certify%0A", {"writer"}),
        ("GET", "/metrics%0a", {"scraper"}),
    ],
)
def test_scopes(guarded: Running, keys: tuple[Path, dict[str, str]], method: str, path: str, allowed: set[str]) -> None:
    for name in ("reader", "writer", "scraper"):
        for headers in (bearer(keys[1][name]), {"x-api-key": keys[1][name]}):
            response = send(guarded, method, path, **headers)
            if name in allowed:
                assert response.status_code == 200, (name, response.text)
            else:
                assert response.status_code == 403, (name, response.text)
                assert method == "HEAD" or response.json()["type"] == "urn:surety:problem:scope"


def test_scopes_and_budgets_hold_below_a_prefix(
    keys: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray's proxy and others leave it: in the path, and named as ``root_path``."""
    asked: list[bool] = []
    monkeypatch.setattr(Meter, "admit", lambda *_, spends: asked.append(spends))
    transport = httpx.ASGITransport(create_app(Settings(keys_file=keys[0])), root_path="/below")

    async def statuses() -> list[int]:
        async with httpx.AsyncClient(transport=transport, base_url="http://x/below") as client:
            answers = [
                await client.get("/health/live"), await client.get("/metrics"),
                await client.get("/metrics", headers=bearer(keys[1]["writer"])),
                await client.get("/metrics", headers=bearer(keys[1]["scraper"])),
                await client.post("/v1/certify", headers=bearer(keys[1]["reader"])),
                await client.post("/v1/certify", headers=bearer(keys[1]["writer"])),
            ]  # fmt: skip
            return [answer.status_code for answer in answers]

    assert asyncio.run(statuses()) == [200, 401, 403, 200, 403, 503]  # the last: let in, before there are models
    assert asked == [False, True]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer surety.reader.wrong"},
        {"authorization": "Basic KEY"},
        {"x-api-key": "surety.nobody.wrong"},
        {"x-api-key": "OLD"},
        {"cookie": "key=KEY"},
    ],
)
def test_without_a_valid_key_401(guarded: Running, keys: tuple[Path, dict[str, str]], headers: dict[str, str]) -> None:
    filled = {n: v.replace("KEY", keys[1]["writer"]).replace("OLD", keys[1]["old"]) for n, v in headers.items()}
    for method, path in (
        ("POST", "/v1/predict"),
        ("GET", "/v1/models"),
        ("GET", "/health/live%0A"),
        ("OPTIONS", "/docs"),
    ):
        response = send(guarded, method, path, **filled)
        assert response.status_code == 401
        assert response.json()["type"] == "urn:surety:problem:unauthenticated"
        assert response.headers["www-authenticate"].startswith("Bearer")
    assert send(guarded, "GET", f"/v1/models?api_key={keys[1]['writer']}").status_code == 401


def test_metrics_can_be_opened(start: Start, keys: tuple[Path, dict[str, str]]) -> None:
    with start(keys_file=keys[0], metrics_open=True) as server:
        assert send(server, "GET", "/metrics").status_code == 200
        assert send(server, "GET", "/v1/models").status_code == 401


def test_every_route_has_a_known_rule() -> None:
    """A new route is open to any key unless a line of NEEDED says more: decide, then list it here."""
    any_key = {"/v1/models", "/v1/models/{model_id}", "/v1/bounds", "/v1/keys/signing", "/v2"}
    of_model = {f"/v2/models/{{model_id}}{v}{e}" for v in ("", "/versions/{version}") for e in ("", "/ready", "/infer")}
    stored = {"/v1/certificates/{certificate_id}", "/v1/certificates/{certificate_id}/verify"}
    jobs = {"/v1/jobs/{job_id}", "/v1/jobs/{job_id}/events"}
    expected = any_key | set(NEEDED) - {"/v1/certificates", "/v2/models"} | stored | jobs | of_model | OPEN
    assert set(create_app(Settings()).openapi()["paths"]) == expected


@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"])
def test_a_stranger_is_refused_before_the_body_is_read(guarded: Running, expect: str) -> None:
    with connect(guarded) as connection:
        head = "POST /v1/certify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 1000000\r\n{expect}\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_a_stranger_learns_nothing(guarded: Running) -> None:
    """Every route of the API: health answers with its status alone, the others with the same refusal."""
    document = create_app(Settings()).openapi()
    secrets = [__version__, "constant-rotation", "Traceback", "uvicorn", "starlette", "fastapi", "python", "cpu"]
    bodies = set()
    asked = [(method.upper(), path) for path, operations in document["paths"].items() for method in operations]
    asked += [("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/none"), ("DELETE", "/v1/models"), ("BREW", "/")]
    for method, path in asked:
        filled = path.replace("{model_id}", "constant-rotation").replace("{certificate_id}", "ID")
        response = send(guarded, method, filled)
        shown = response.text.replace(response.json().get("instance", ""), "")
        shown += str({name: value for name, value in response.headers.items() if name != "x-request-id"})
        assert not [word for word in secrets if word.lower() in shown.lower()], (path, shown)
        if path in OPEN:
            assert response.status_code == 200
            assert list(response.json()) in (["status"], ["live"], ["ready"])
        else:
            assert response.status_code == 401
            bodies.add(json.dumps({**response.json(), "instance": "", "error": ""}, sort_keys=True))
    assert len(bodies) == 1


# where the server may listen


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.0.5", False), ("", False), ("example.org", False)],
)  # fmt: skip
def test_only_loopback_is_served_without_keys(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    if not loopback:
        with pytest.raises(SettingsError, match=r"surety keys new.*SURETY_ALLOW_PUBLIC_WITHOUT_KEYS"):
            check_exposure(Settings(host=host))
    else:
        check_exposure(Settings(host=host))
    check_exposure(Settings(host=host, allow_public_without_keys=True))
    check_exposure(Settings(host=host, keys_file=Path("keys.json")))


def test_a_public_address_without_keys_and_a_missing_file_end_the_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["serve", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert capsys.readouterr().err.startswith("surety: 0.0.0.0 is not a loopback address")
    monkeypatch.setenv("SURETY_KEYS_FILE", "/none/keys.json")
    assert main(["serve", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert capsys.readouterr().err == "surety: /none/keys.json: No such file or directory\n"


# headers


def test_every_answer_carries_the_headers(guarded: Running, monkeypatch: pytest.MonkeyPatch, server: Running) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(service.computing, "certify", broken)
    answers = {
        200: server.client.get("/v1/models"),
        204: server.client.options("/v1/models"),
        401: guarded.client.get("/v1/models"),
        404: server.client.get("/none"),
        405: server.client.put("/v1/certify"),
        422: server.certify(image=b""),
        500: server.certify(),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert SECURITY_HEADERS.items() <= {n.title(): v for n, v in answer.headers.items()}.items(), status
        assert "server" not in answer.headers


@pytest.mark.parametrize("head", [b"NOT HTTP\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000])
def test_what_is_not_http_gets_a_problem_with_the_headers(server: Running, head: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(head)
        answer = everything(connection).decode()
    assert answer.startswith("HTTP/1.1 400 ")
    lines, _, body = answer.partition("\r\n\r\n")
    assert json.loads(body)["type"] == "urn:surety:problem:malformed_request"
    for name, value in SECURITY_HEADERS.items():
        assert f"{name}: {value}".lower() in lines.lower()


def test_the_page_of_the_api_may_run_its_own_script_alone(server: Running) -> None:
    page = server.client.get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy["script-src"]
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy["script-src"]
    for name, kind in (("script", "src"), ("link", "href")):
        directive = "script-src" if name == "script" else "style-src"
        for address in re.findall(rf'<{name}[^>]* {kind}="(https:[^"]*(?:js|css))"', page.text):
            assert any(address.startswith(one) for one in policy[directive].split() if one.startswith("https:"))


# logs


def test_logs_hold_no_keys_and_no_images(
    start: Start, keys: tuple[Path, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    for client in ("httpx", "httpcore"):
        caplog.set_level(logging.WARNING, client)
    caplog.set_level(logging.DEBUG)
    path, known = keys
    text = base64.b64encode(IMAGE).decode()
    broken = IMAGE[: len(IMAGE) // 2]
    with start(keys_file=path, log_level="debug") as server:
        for name in ("reader", "writer", "old"):
            for headers in (bearer(known[name]), {"x-api-key": known[name]}):
                for image in (IMAGE, broken):
                    server.client.post("/v1/certify", headers=headers, files={"image": ("image", image)})
                    body = {"image": base64.b64encode(image).decode(), "guarantee": "heuristic"}
                    server.client.post("/v1/certify", headers=headers, json=body)
                server.client.post("/v1/certify", headers=headers, json={"image": text, "n": text})
                server.client.get("/v1/models", headers=headers, params={"key": known[name]})
        until(lambda: "/v1/models" in caplog.text)
    assert "POST /v1/certify 200" in caplog.text
    assert "POST /v1/certify 422" in caplog.text
    assert "POST /v1/certify 401" in caplog.text
    entries = read_keys(path)
    for name in ("reader", "writer", "old"):
        for secret in (known[name].rsplit(".", 1)[1], entries[name].hash, entries[name].salt):
            assert secret not in caplog.text
    pixels = (text[:40], text[-40:], str(IMAGE[20:40])[2:-1], IMAGE[40:80].hex())
    assert not [one for one in pixels if one in caplog.text]
