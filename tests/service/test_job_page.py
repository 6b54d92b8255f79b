"""docs/jobs.md: its commands run as they stand there, and its tables name what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from service.event_schemas import EndEvent, ItemEvent, ProgressEvent, QueuedEvent, StageEvent
from service.job_tables import EventKind
from service.schemas import JobItemReply, JobReply, JobStatus

from .conftest import Start
from .job_tools import finished, parsed

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "jobs.md").read_text()
EVENTS = PAGE.split("\n## Events\n")[1].split("\n## ")[0]


def first_cells(heading: str) -> list[str]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row) if name != "status"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_the_page_run(start: Start, mnist_zoo: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    commands = re.findall(r"^curl (?:.*\\\n)*.*$", block, re.M)
    assert len(commands) == 4

    def run(command: str, identifier: str = "") -> str:
        text = command.replace("http://127.0.0.1:8000", server.url).replace("/ID", f"/{identifier}")
        return subprocess.run(
            ["bash", "-c", f"{text} -fsS --max-time 60"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout

    with start(zoo=mnist_zoo, data_dir=tmp_path) as server:
        job = json.loads(run(commands[0]))
        assert [one["item"] for one in job["items"]] == [0, 1]
        assert json.loads(run(commands[0]))["id"] == job["id"], "the same Idempotency-Key"
        told = list(parsed(iter(run(commands[1], job["id"]).splitlines())))
        assert told[-1].kind == "done"
        got = json.loads(run(commands[2], job["id"]))
        assert got == finished(server.client, job["id"]) == json.loads(run(commands[3], job["id"]))
        assert all(one["reply"]["certificate_id"] for one in got["items"])


def test_the_page_names_every_status_event_and_field() -> None:
    assert first_cells("What comes of it") == [str(one) for one in JobStatus]
    assert sorted(first_cells("Events")) == sorted(map(str, EventKind))
    words = set(re.findall(r"`(\w+)`", PAGE))
    assert {*JobReply.model_fields, *JobItemReply.model_fields} - {"id"} <= words


def test_the_table_of_events_names_every_field_that_clients_know() -> None:
    kinds = {"queued": QueuedEvent, "stage": StageEvent, "progress": ProgressEvent, "item": ItemEvent, "done": EndEvent}
    for kind, model in kinds.items():
        (cells,) = re.findall(rf"^\| `{kind}`.*? \| (.*) \|$", EVENTS, re.M)
        named = set(re.findall(r"`(\w+)`", cells))
        assert set(model.model_fields) - {"id", "kind"} - ({"problem"} if model is EndEvent else set()) <= named, kind
