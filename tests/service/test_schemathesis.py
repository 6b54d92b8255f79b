"""The service keeps to its OpenAPI document, whatever is in it; ``benchmarks.api_fuzz`` asks much more."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.responses import JSONResponse

import service.routes.models
from benchmarks.api_fuzz import attack

from .conftest import Start

CHEAP = {"default_deadline_ms": 200, "max_deadline_ms": 1000, "records_deletion": True}


def test_every_operation_answers_as_the_document_says(start: Start, tmp_path: Path) -> None:
    with start(data_dir=tmp_path, **CHEAP) as server:
        paths = server.client.get("/openapi.json").json()["paths"]
        report = attack(server.url, tmp_path / "report.json", examples=3, seed=0)
        assert (report["failures"], report["errors"]) == ([], [])
        assert report["operations"]["tested"] == sum(len(operations) for operations in paths.values())
        assert report["test_cases"]["generated"] >= 300
        assert 'status="500"' not in server.client.get("/metrics").text
        assert server.certify(guarantee="heuristic").status_code == 200


def test_an_answer_that_is_not_as_the_document_says_is_found(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = JSONResponse({"models": "none"})
    monkeypatch.setattr(service.routes.models, "ModelsReply", lambda **_: broken)
    with start(data_dir=tmp_path, **CHEAP) as server, pytest.raises(RuntimeError, match="schema"):
        attack(server.url, tmp_path / "report.json", "--include-path", "/v1/models", examples=1, seed=0)
