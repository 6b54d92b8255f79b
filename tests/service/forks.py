"""``surety serve`` in processes of its own, forked from one that has imported it: each would take seconds for that."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from .waiting import COMPILING, until

ROOT = Path(__file__).resolve().parents[2]
PORTS = range(20_000, 32_000)
"""Connections get higher ones (on Linux): one that is tried again and again where nobody listens would take a server's.
"""
PARENT = """
import json, os, sys
import service.computing, service.server, service.supervisor
from service.cli import main

service.computing.warm_up = lambda *what: None
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
    else:
        answer = os.fork()
        if answer == 0:
            os.setsid()
            os.dup2(os.open(asked["log"], os.O_WRONLY | os.O_CREAT, 0o600), 2)
            os.dup2(2, 1)
            os.environ.update(asked["environment"])
            exec(asked["code"])
            sys.exit(main(["serve"]))
    print(answer, flush=True)
"""


class Forks:
    """Begins servers, and knows how they end.

    Parameters
    ----------
    parent : subprocess.Popen
        Runs ``PARENT``.
    folder : Path
        For what the servers log.
    """

    def __init__(self, parent: subprocess.Popen[str], folder: Path) -> None:
        self._parent, self._folder, self._begun = parent, folder, 0

    def begin(self, code: str = "", **settings: Any) -> Served:
        """A server that runs some code first, in a group of its own; settings as in ``Settings``. It is not ready."""
        usual = {"device": "cpu", "batch_size": 64, "worker": "thread", "port": free_port()}
        chosen = {**usual, **settings}
        environment = {f"SURETY_{name.upper()}": str(value) for name, value in chosen.items()}
        self._begun += 1
        log = self._folder / f"{self._begun}.log"
        process = self._ask(environment=environment, code=code, log=str(log))
        return Served(self, process, f"http://127.0.0.1:{chosen['port']}", log)

    def wait(self, process: int) -> int:
        """Exit status of one that has ended, once."""
        return self._ask(wait=process)

    def _ask(self, **asked: Any) -> int:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        print(json.dumps(asked), file=self._parent.stdin, flush=True)
        return int(self._parent.stdout.readline())


@dataclass(frozen=True)
class Served:
    """One server."""

    forks: Forks
    process: int
    url: str
    log: Path

    def ready(self) -> bool:
        """Whether it takes requests."""
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def until_ready(self) -> None:
        """Wait; raises TimeoutError, or RuntimeError if it has ended."""
        until(lambda: self.ready() or not is_alive(self.process), COMPILING)
        if not is_alive(self.process):
            raise RuntimeError(f"the server ended: {self.log.read_text()}")

    def metrics(self) -> str:
        """Their text."""
        return httpx.get(f"{self.url}/metrics", timeout=60).text

    def ended(self) -> int:
        """Wait for its end; the exit status."""
        until(lambda: not is_alive(self.process))
        return self.forks.wait(self.process)

    def kill(self) -> None:
        """Kill whatever is left of it and of its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)


@contextmanager
def forking_parent(folder: Path) -> Iterator[Forks]:
    """For as many servers as are begun within the block; whoever begins one kills it."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Forks(parent, folder)
    finally:
        parent.kill()
        parent.communicate()


def free_port() -> int:
    """One that a server may listen on, and again after it was killed."""
    while True:
        port = secrets.choice(PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def is_alive(process: int) -> bool:
    """Whether it runs: what nobody has waited for yet does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"
