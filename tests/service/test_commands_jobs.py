"""``surety jobs``: against real servers, which restart meanwhile, refuse, and are interrupted."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import service.commands
import service.computing
from service.cli import main

from .client_tools import Script, busy
from .conftest import Running, Start, until
from .forks import ROOT, Forks, free_port, is_alive
from .job_tools import CHANCY, CHEAP, LONG, Gate, finished, gate, look, pictures, submit
from .pictures import SIDE, encode
from .test_client_command import PAGE, Terminal, command, mocked
from .test_job_restarts import QUICK, SLOW, done, house

__all__ = ["gate"]
FIELDS = [word for name, value in CHEAP.items() for word in (f"--{name}", value)]


@pytest.fixture
def images(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of three good images in the working directory; the server is named by the environment."""
    for number, picture in enumerate(pictures(3)):
        (tmp_path / f"{number}.png").write_bytes(picture)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SURETY_URL", server.url)
    monkeypatch.delenv("SURETY_API_KEY", raising=False)
    return [f"{number}.png" for number in range(3)]


@pytest.fixture
def idle(start: Start, tmp_path: Path, images: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A server that accepts one job and leaves it to others."""
    with start(data_dir=tmp_path / "data", job_slots=0, max_unfinished_jobs=1) as running:
        monkeypatch.setenv("SURETY_URL", running.url)
        yield running


def test_submit_show_and_watch(server: Running, images: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["jobs", "submit", *images, *FIELDS, "--idempotency-key", "the same"]
    assert main(words) == main(words) == 0
    told = capsys.readouterr()
    assert told.err == ""
    (identifier,) = set(told.out.splitlines())
    job = finished(server.client, identifier)
    assert main(["jobs", "watch", identifier]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    for number, line in enumerate(told.out.splitlines()):
        name = job["items"][number]["reply"]["certificate_id"]
        assert re.fullmatch(rf"image {number}: class one, radius [\d.]+ degrees, certificate {name}", line)
    assert main(["jobs", "show", identifier]) == 0
    head, *rest = capsys.readouterr().out.splitlines()
    assert head == f"{identifier}: done, 3 of 3 images over"
    assert [re.match(r"image (\d): class one, radius .* heuristic guarantee", line)[1] for line in rest] == list("012")


def test_json_is_the_job_and_its_events(server: Running, images: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "submit", *images, *FIELDS, "--json"]) == 0
    sent = json.loads(capsys.readouterr().out)
    job = finished(server.client, sent["id"])
    assert sent.keys() == job.keys()
    for words in ("show", "cancel"):
        assert main(["jobs", words, sent["id"], "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == job
    assert main(["jobs", "watch", sent["id"], "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[0] == {"id": 1, "kind": "queued", "images": 3}
    assert told[-1]["kind"] == "done"
    assert [one["certificate_id"] for one in told if one["kind"] == "item"] == [
        one["reply"]["certificate_id"] for one in job["items"]
    ]


def test_waiting_names_the_files(images: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "submit", *images, *FIELDS, "--wait"]) == 0
    told = capsys.readouterr()
    assert re.fullmatch(r"surety: job \S+\n", told.err)
    assert [line.partition(": class one")[0] for line in told.out.splitlines()] == images


def test_every_option_reaches_the_server(images: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(busy(422))
    mocked(monkeypatch, script)
    words = "--model m --range 3 --image-is reference --idempotency-key k --api-key s"
    assert main(["jobs", "submit", images[0], *words.split()]) == 4
    (request,) = script.requests
    sent = dict(re.findall(r'name="(\w+)"\r\n\r\n(.*?)\r\n', request.content.decode("latin-1")))
    assert sent == {"model": "m", "attack_range": "3.0", "image_is": "reference"}
    assert (request.headers["idempotency-key"], request.headers["authorization"]) == ('"k"', "Bearer s")


def test_a_job_that_fails_in_part(
    images: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The worst of the images counts, also where it is looked at later."""
    certify, calls = service.computing.certify, []

    def breaks(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise RuntimeError
        return certify(*given)

    monkeypatch.setattr(service.computing, "certify", breaks)
    assert main(["jobs", "submit", *images, *FIELDS, "--wait"]) == 5
    told = capsys.readouterr()
    assert [line.partition(":")[0] for line in told.out.splitlines()] == ["0.png", "2.png"]
    head, failure = told.err.splitlines()
    assert re.match(r"1\.png: The server failed: .*\(500 internal\)", failure)
    assert main(["jobs", "show", head.split()[-1]]) == 5
    told = capsys.readouterr()
    assert (len(told.out.splitlines()), told.err.startswith("image 1: The server failed")) == (3, True)


def test_an_abstention_is_3(images: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("black.png").write_bytes(encode(np.zeros((SIDE, SIDE), np.uint8), "PNG"))
    words = "--model undecided --transformation l2 --alpha 1e-6 --range .01 --wait"
    assert main(["jobs", "submit", "black.png", *words.split()]) == 3
    assert re.match(r"black\.png: abstained, certificate \w+", capsys.readouterr().out)


def test_a_cancelled_job_and_a_full_server(
    idle: Running, images: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["jobs", "submit", *images, *FIELDS]) == 0
    identifier = capsys.readouterr().out.strip()
    assert main(["jobs", "show", identifier]) == 0
    head, *rest = capsys.readouterr().out.splitlines()
    assert (head, rest[0]) == (f"{identifier}: queued, 0 of 3 images over", "image 0: queued")

    monkeypatch.setattr(service.commands, "Client", partial(service.commands.Client, retries=0))
    assert main(["jobs", "submit", *images, *FIELDS]) == 5
    assert re.match(r"surety: Too many jobs are unfinished: .*429 job_limit", capsys.readouterr().err)

    assert main(["jobs", "cancel", identifier]) == 0
    assert capsys.readouterr().out == f"{identifier}: cancelled, 3 of 3 images over\n"
    for word in ("watch", "show"):
        assert main(["jobs", word, identifier]) == 4
        told = capsys.readouterr()
        assert (told.err == "surety: the job was cancelled\n") == (word == "watch")


@pytest.mark.parametrize("word", ["show", "watch", "cancel"])
def test_a_job_that_is_not_there(images: list[str], capsys: pytest.CaptureFixture[str], word: str) -> None:
    assert main(["jobs", word, "none"]) == 4
    told = capsys.readouterr()
    assert (told.out, "404 unknown_job" in told.err) == ("", True)
    assert main(["jobs", word, "none", "--json"]) == 4
    told = capsys.readouterr()
    assert (told.err, json.loads(told.out)["error"]["type"]) == ("", "urn:surety:problem:unknown_job")


def test_a_job_is_sent_whole_or_not_at_all(
    server: Running, images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before, _ = server.services.jobs.store.counts()
    assert main(["jobs", "submit", "absent.png", images[0], "/", *FIELDS]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert [line.partition(":")[0] for line in told.err.splitlines()] == ["absent.png", "/"]
    Path("text.png").write_text("hello")
    assert main(["jobs", "submit", images[0], "text.png", *FIELDS]) == 4
    assert capsys.readouterr().err.startswith("text.png: Not a supported image: image 1: ")
    assert main(["jobs", "submit", images[0], "text.png", *FIELDS, "--json"]) == 4
    said = json.loads(capsys.readouterr().out)
    assert (said["file"], said["error"]["item"]) == ("text.png", 1)
    assert main(["jobs", "submit", images[0], "--idempotency-key", 'a"b']) == 2
    assert capsys.readouterr().err.startswith("surety: idempotency_key must be")
    assert server.services.jobs.store.counts()[0] == before


def test_progress_is_shown_on_a_terminal(
    images: list[str], gate: Gate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stage, votes and the bounds so far, as they are made; never more of them than there is."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    words = [word for name, value in LONG.items() for word in (f"--{name}".replace("attack_", ""), str(value))]
    statuses: list[int] = []
    watching = threading.Thread(target=lambda: statuses.append(main(["jobs", "submit", images[0], *words, "--wait"])))
    watching.start()
    shape = re.compile(r"0\.png: estimate, [\d,]+ votes, p_lower 0\.\d+, radius 0\.\d+")

    def is_shown() -> bool:
        gate.let(1)
        return shape.search(terminal.getvalue()) is not None

    until(is_shown)
    gate.open = True
    watching.join(60.0)
    assert statuses == [0]
    assert capsys.readouterr().out.startswith("0.png: class one, radius ")


def test_interrupting_leaves_the_job(idle: Running, images: list[str]) -> None:
    identifier = submit(idle.client)
    # as a terminal starts it: whoever runs the tests in the background has SIGINT ignored in all of them
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with command("jobs", "watch", identifier, "--url", idle.url, preexec_fn=heeded) as process:
        until(lambda: idle.services.jobs._bells._bells.get(identifier) is not None)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert err.decode() == f"surety: the job goes on; come back with: surety jobs watch {identifier}\n"
    assert look(idle.client, identifier)["status"] == "queued"


def test_watching_outlasts_kill_9(forks: Forks, zoo: Path, tmp_path: Path) -> None:
    """Each image is told once, though the server dies under the second one."""
    port = free_port()
    with house(forks, zoo=zoo, data_dir=tmp_path) as servers:
        doomed, client = servers.start(SLOW, port=port)
        identifier = submit(client, pictures(3), **CHANCY)
        with command("jobs", "watch", identifier, "--url", f"http://127.0.0.1:{port}", "--json") as watching:
            assert b'"queued"' in watching.stdout.readline()
            until(lambda: done(client, identifier) == 1)
            doomed.kill()
            until(lambda: not is_alive(doomed.process))
            _, client = servers.start(QUICK, port=port)
            out, err = watching.communicate(timeout=120)
        job = finished(client, identifier)
        assert job["status"] == "done"
        abstained = any(one["reply"]["abstained"] for one in job["items"])
        assert (watching.returncode, err) == (3 if abstained else 0, b"")
        told = [json.loads(line) for line in out.splitlines()]
        assert sorted(one["item"] for one in told if one["kind"] == "item") == [0, 1, 2]
        assert told[-1]["kind"] == "done"
        numbers = [one["id"] for one in told]
        assert numbers == sorted(set(numbers))


def test_the_example_of_the_page_runs(
    start: Start, mnist_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the root of the repository, one command after the other."""
    (block,) = (one for one in re.findall(r"```sh\n(.*?)```", PAGE, re.S) if "surety jobs" in one)
    commands = [line for line in block.splitlines() if line.startswith("surety ")]
    assert {line.split()[2] for line in commands} == {"submit", "show", "watch", "cancel"}
    monkeypatch.chdir(ROOT)
    with start(zoo=mnist_zoo, data_dir=tmp_path) as server:
        monkeypatch.setenv("SURETY_URL", server.url)
        identifier = ""
        for line in commands:
            assert main(shlex.split(line.replace("ID", identifier))[1:]) == 0, line
            identifier = identifier or capsys.readouterr().out.strip()
