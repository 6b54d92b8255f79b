"""What the tests of certificates share: asking for them, reading them, and databases of both kinds."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from .conftest import Running
from .job_tools import CHEAP

on_both = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
"""Runs a test on an empty database of each kind."""


def certified(server: Running, image: bytes | None = None, **fields: Any) -> str:
    """The id of a new certificate."""
    response = server.certify(image, **{**CHEAP, **fields})
    assert response.status_code == 200, response.text
    identifier = response.json()["certificate_id"]
    assert isinstance(identifier, str)
    return identifier


def stored(server: Running, identifier: str) -> dict[str, Any]:
    response = server.client.get(f"/v1/certificates/{identifier}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def verified(server: Running, identifier: str, image: bytes | None = None) -> dict[str, Any]:
    response = server.post(f"/v1/certificates/{identifier}/verify", image)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def votes(server: Running) -> list[str]:
    return [line for line in server.client.get("/metrics").text.splitlines() if line.startswith("surety_votes_total")]


def rows(file: Path) -> int:
    connection = sqlite3.connect(file)
    (count,) = connection.execute("SELECT count(*) FROM certificates").fetchone()
    connection.close()
    return int(count)


def written(server: Running, result: str) -> float:
    lines = server.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith(f'surety_records_total{{result="{result}"'))
