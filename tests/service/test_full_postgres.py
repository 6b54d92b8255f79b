"""A full disk under PostgreSQL: what was acknowledged stays, what cannot be stored is refused, and it recovers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from .conftest import Start
from .databases import Postgres, postgres_cluster
from .job_tools import CHEAP, problem
from .record_tools import certified, stored, verified, written

MEBIBYTES = 16
"""An empty database has 7 of them."""
MOST = 100
"""Certificates that the pages may hold which a table has already."""
Fill = Callable[[bool], None]
TRIGGER = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk AFTER INSERT ON certificates EXECUTE FUNCTION full_disk();
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """One of its own: a cluster that begins again after a crash looks for every disk that it had."""
    with postgres_cluster() as cluster:
        yield cluster


@pytest.fixture(params=["disk", "trigger"])
def database(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[tuple[str, Fill]]:
    """An empty database, and what fills its disk (True) or makes room: really, and by the same error anywhere."""
    if request.param == "trigger":
        url = postgres.create_database()
        yield url, lambda full: execute(url, TRIGGER if full else "DROP FUNCTION full_disk CASCADE")
        return
    with postgres.small_disk(MEBIBYTES) as folder:
        place = folder / "tablespace"
        place.mkdir(mode=0o700)
        os.chown(place, folder.stat().st_uid, -1)
        postgres.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
        url = postgres.create_database("small")
        try:
            yield url, lambda full: fill(folder / "ballast", full=full)
        finally:
            postgres.execute(f"DROP DATABASE {psycopg.conninfo.conninfo_to_dict(url)['dbname']} WITH (FORCE)")
            postgres.execute("DROP TABLESPACE small")


def execute(url: str, statements: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statements.encode())


def fill(ballast: Path, *, full: bool) -> None:
    """Take what is left of a disk, or give it back."""
    if not full:
        ballast.unlink()
        return
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def count(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM certificates").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("records", ["required", "optional"])
def test_a_full_disk_loses_nothing_that_was_acknowledged(
    start: Start, tmp_path: Path, database: tuple[str, Fill], records: str
) -> None:
    url, filled = database
    with start(data_dir=tmp_path, database_url=url, records=records) as server:
        kept = [certified(server)]
        filled(True)
        for _ in range(MOST):
            response = server.certify(**CHEAP)
            identifier = response.json().get("certificate_id")
            if identifier is None:
                break
            kept.append(identifier)
        assert identifier is None, "the disk was not full"
        if records == "required":
            assert problem(response) == (503, "records_unavailable")
            assert int(response.headers["retry-after"]) > 0
        else:
            assert (response.status_code, response.json()["abstained"]) == (200, False)
        assert written(server, "failed") == 1.0
        assert server.client.get("/health/ready").status_code == 200
        assert server.predict(guarantee="heuristic").status_code == 200
        for one in kept:
            stored(server, one)
        assert count(url) == len(kept), "something was half written"
        filled(False)
        kept.append(certified(server))
        assert count(url) == len(kept)
        for one in {kept[0], kept[-2], kept[-1]}:
            assert verified(server, one)["verified"]
