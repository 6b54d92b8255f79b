"""``surety certify`` and ``surety predict``: lines, JSON, exit statuses; and the page that tells of them."""

from __future__ import annotations

import io
import json
import re
import shlex
import signal
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import service.commands
from service.cli import main
from service.client import Client

from .client_tools import DIGIT, NO_REPLIES, Script, busy, raw_server
from .conftest import Running, Start
from .pictures import SIDE, encode, grey

__all__ = ["raw_server"]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()


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
        "alpha": "0.02", "wanted-radius": "2", "estimator": "joint", "deadline-ms": "900",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    assert main(["certify", "good.png", "--api-key", "k", "--url", "http://there", *words]) == 4
    (request,) = script.requests
    body = request.content.decode("latin-1")
    sent = dict(re.findall(r'name="(\w+)"\r\n\r\n(.*?)\r\n', body))
    named = {name: name.replace("-", "_") for name in ("image-is", "wanted-radius", "deadline-ms")}
    named["range"] = "attack_range"
    expected = {named.get(name, name): value for name, value in options.items()}
    numbers = {"attack_range": "3.0", "wanted_radius": "2.0"}
    assert sent == {**expected, **numbers}
    assert (request.url.host, request.headers["authorization"]) == ("there", "Bearer k")
    assert "busy" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "waited"), [("", 660.0), (" --timeout 20", 20.0)])
def test_a_command_waits_for_longer_than_its_deadline(
    images: Path, monkeypatch: pytest.MonkeyPatch, option: str, waited: float
) -> None:
    script = Script(busy(422))
    mocked(monkeypatch, script)
    assert main(f"predict good.png --deadline-ms 600000{option}".split()) == 4
    assert script.requests[0].extensions["timeout"]["read"] == pytest.approx(waited, abs=1.0)


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
    commands = [line for line in lines if re.match("surety (?!jobs)", line)]
    assert (len(examples), len(commands)) == (4, 4)
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
