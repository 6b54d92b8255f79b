"""What stays whatever happens: several processes, kill -9, restarts, migrations, one signing key."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from service.signing import SigningKey
from service.store import CERTIFICATES, Record, RecordsError, Store

from .conftest import Start, until
from .databases import Postgres
from .forks import Forks
from .job_tools import CHANCY, CHEAP
from .pictures import encode, grey
from .record_tools import certified, on_both, stored, verified

ROOT = Path(__file__).resolve().parents[2]


@on_both
def test_a_restart_keeps_certificates_and_can_verify_them(start: Start, tmp_path: Path, database_url: str) -> None:
    """The noise of the second server has another secret: the recorded key makes the run."""
    given = {"data_dir": tmp_path / "data", "database_url": database_url, "noise_secret": None}
    with start(**given) as server:
        identifier = certified(server, **CHANCY)
        before = stored(server, identifier)
    with start(**given) as server:
        assert stored(server, identifier) == before
        assert verified(server, identifier)["verified"]
        again = stored(server, certified(server, **CHANCY))
        assert again["certificate"]["noise_key"] != before["certificate"]["noise_key"]
        assert again["key_fingerprint"] == before["key_fingerprint"]


def certify_at(url: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/certify", files={"image": ("x", encode(grey(), "PNG"))}, data=CHEAP, timeout=60)


@on_both
def test_two_servers_share_a_database_and_kill_9_loses_nothing(
    zoo: Path, tmp_path: Path, database_url: str, forks: Forks
) -> None:
    """Both start at once on an empty database and an empty data directory."""
    doomed, left = servers = [
        forks.begin(zoo=zoo, data_dir=tmp_path / "data", database_url=database_url) for _ in range(2)
    ]
    try:
        for server in servers:
            server.until_ready()
        kept = [certify_at(server.url).json()["certificate_id"] for server in (left, doomed, left, doomed)]
        doomed.kill()
        until(lambda: not doomed.ready())
        found = [httpx.get(f"{left.url}/v1/certificates/{name}") for name in kept]
        assert [response.status_code for response in found] == [200] * 4
        assert len({response.json()["key_fingerprint"] for response in found}) == 1
        upload = {"image": ("x", encode(grey(), "PNG"))}
        reply = httpx.post(f"{left.url}/v1/certificates/{kept[3]}/verify", files=upload, timeout=60).json()
        assert reply["verified"], reply
    finally:
        for server in servers:
            server.kill()


def test_the_signing_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    keys: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: keys.append(SigningKey.read_or_create(tmp_path / "key").public_key))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


OPEN = "import sys; from service.store import Store; Store(sys.argv[1]).open()"


@on_both
def test_migrations_run_once_when_many_processes_start(database_url: str) -> None:
    """They end at the schema that the code uses; oracle: Alembic's own comparison."""
    many = [subprocess.Popen([sys.executable, "-c", OPEN, database_url], cwd=ROOT) for _ in range(4)]
    assert [one.wait(120) for one in many] == [0] * 4
    store = Store(database_url)
    store.add(Record("a", 1.0, "{}", b"\0image"))
    again = Store(database_url)
    assert again.get("a") == Record("a", 1.0, "{}", b"\0image")
    engine = sqlalchemy.create_engine(database_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), CERTIFICATES.metadata)
    # an index makes nothing right or wrong, so the code does not name it
    assert [one for one in found if one[0] != "remove_index"] == []
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    newer = Store(database_url)
    with pytest.raises(RecordsError, match="newer version"):
        newer.open()
    for one in (store, again, newer):
        one.close()


def test_a_certificate_survives_a_power_cut(tmp_path: Path) -> None:
    """As far as SQLite can see to it: WAL, and a sync at every commit."""
    store = Store(f"sqlite:///{tmp_path / 'x.sqlite'}")
    seen = []

    def look(connection: Any, *_: Any) -> None:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        seen.append([connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names])

    store.open()
    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", look)
    try:
        store.add(Record("a", 1.0, "{}", None))
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", look)
    assert seen == [["wal", 2, 1, 10_000]]


def test_a_database_whose_host_dies_is_noticed(postgres: Postgres) -> None:
    """libpq's own word for what its connections have: no host can be made to die here."""
    store = Store(postgres.create_database())
    with store.transaction() as connection:
        driver: Any = connection.connection.driver_connection
        given = driver.info.get_parameters()
    store.close()
    assert int(given["keepalives_idle"]) + int(given["keepalives_interval"]) * int(given["keepalives_count"]) < 15
    assert int(given["tcp_user_timeout"]) == 10_000
