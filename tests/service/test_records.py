"""Certificates are stored, read back as they were signed, verified online, and kept or deleted as was said."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from certification import __version__
from service.store import CERTIFICATES, Record, Store

from .conftest import Running, Start, until
from .databases import Postgres
from .job_tools import CHANCY, CHEAP, problem
from .pictures import SIDE, encode, grey
from .record_tools import certified, on_both, rows, stored, verified, votes, written

# ---------------------------------------------------------------- what is stored


def test_a_certificate_is_stored_with_everything_it_followed_from(server: Running) -> None:
    """Oracles: hashlib on the file and on the pixels, the reply itself, and the settings of the fixture."""
    image = encode(grey(), "PNG")
    response = server.certify(image, **CHEAP, alpha=0.02, attack_range=20)
    reply = response.json()
    identifier = reply.pop("certificate_id")
    document = stored(server, identifier)["certificate"]
    assert (document["schema"], document["id"], document["reply"]) == (1, identifier, reply)
    pixels = (grey()[:, :, None] / np.float32(255)).astype("<f4")
    assert document["image"] == {
        "sha256": hashlib.sha256(image).hexdigest(),
        "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "height": SIDE, "width": SIDE, "channels": 1,
    }  # fmt: skip
    assert document["model"] == {"id": "constant-rotation", "digest": reply["model_digest"]}
    assert (document["plan"]["alpha"], document["plan"]["attack_range"]["half_width"]) == (0.02, 20.0)
    assert len(bytes.fromhex(document["noise_key"])) == 32
    runtime = document["runtime"]
    assert (runtime["version"], runtime["device"], runtime["batch_size"]) == (__version__, "cpu", 64)
    assert "image" not in stored(server, identifier)


def test_ids_are_long_and_new_each_time_while_the_answer_stays(server: Running) -> None:
    first, second = certified(server), certified(server)
    assert first != second
    assert min(len(base64.urlsafe_b64decode(one)) for one in (first, second)) * 8 >= 128
    one, other = (stored(server, name)["certificate"] for name in (first, second))
    assert one["noise_key"] == other["noise_key"]


def test_a_published_key_foretells_no_other_request(server: Running) -> None:
    """A deadline changes nothing; whatever else is asked for has noise of its own."""
    same: tuple[dict[str, Any], ...] = ({}, {"deadline_ms": 50_000})
    others: tuple[dict[str, Any], ...] = ({"alpha": 0.0099}, {"n0": 101}, {"attack_range": 9})
    keys = [
        stored(server, certified(server, **{**CHEAP, **more}))["certificate"]["noise_key"] for more in (*same, *others)
    ]
    other = server.certify(encode(grey() + np.uint8(1), "PNG"), **CHEAP).json()["certificate_id"]
    keys.append(stored(server, other)["certificate"]["noise_key"])
    assert keys[0] == keys[1]
    assert len(set(keys)) == len(keys) - 1


def test_the_signature_is_ed25519_of_the_canonical_json(server: Running) -> None:
    """Oracle: json and cryptography, as docs/records.md tells anybody to do it."""
    key = server.client.get("/v1/keys/signing").json()
    public = load_pem_public_key(key["public_key"].encode())
    assert isinstance(public, Ed25519PublicKey)
    envelope = stored(server, certified(server))
    text = json.dumps(envelope["certificate"], sort_keys=True, separators=(",", ":"))
    public.verify(base64.b64decode(envelope["signature"]), text.encode())
    assert public.public_bytes_raw() == base64.b64decode(envelope["public_key"])
    assert (key["algorithm"], envelope["key_fingerprint"]) == ("Ed25519", key["fingerprint"])


# ---------------------------------------------------------------- verifying online


@pytest.mark.parametrize(
    "fields",
    [
        {"guarantee": "heuristic"},
        {"guarantee": "distributional", "estimator": "nested"},
        {"guarantee": "distributional", "estimator": "joint"},
        {"guarantee": "individual", "attack_range": 12},
        {"transformation": "translation", "attack_range": 1, "guarantee": "heuristic"},
        CHANCY,
        {"model": "rgb", "guarantee": "heuristic", "image": encode(grey(30, 20), "PNG")},
        {"guarantee": "individual", "attack_range": 1, "n_delta": 9, "procedure": "paper"},
    ],
    ids=lambda fields: "-".join(str(v) for v in fields.values() if isinstance(v, str | float | int)),
)
def test_every_kind_of_answer_is_repeated_to_the_last_bit(server: Running, fields: dict[str, Any]) -> None:
    image = fields.get("image")
    identifier = server.certify(**fields).json()["certificate_id"]
    found = verified(server, identifier, image)
    assert found["verified"], found
    assert found["key_is_trusted"]
    assert (found["reason"], found["differences"], found["runtime_differences"]) == (None, [], [])
    assert found["certificate_id"] == identifier


def test_the_same_pixels_in_another_file_are_the_same_image(server: Running) -> None:
    identifier = certified(server)
    assert verified(server, identifier, encode(grey(), "BMP"))["verified"]


def test_another_image_is_told_before_any_vote(server: Running) -> None:
    identifier = certified(server)
    before = votes(server)
    found = verified(server, identifier, encode(grey(seed=1), "PNG"))
    assert not found["verified"]
    assert [one["field"] for one in found["differences"]] == ["image.pixels_sha256"]
    assert votes(server) == before


def test_an_image_that_was_not_stored_must_be_sent_again(server: Running) -> None:
    response = server.client.post(f"/v1/certificates/{certified(server)}/verify")
    assert problem(response) == (422, "invalid_field")
    assert response.json()["field"] == "image"


def test_a_stored_image_need_not_be_sent_again(start: Start, tmp_path: Path) -> None:
    with start(data_dir=tmp_path, store_images=True) as server:
        identifier = certified(server)
        response = server.client.post(f"/v1/certificates/{identifier}/verify")
        assert response.json()["verified"]
        assert not verified(server, identifier, encode(grey(seed=1), "PNG"))["verified"]


def test_verifying_needs_a_permit_like_a_certificate(start: Start) -> None:
    with start() as server:
        identifier = certified(server)
        server.services.engine.drain()
        assert problem(server.post(f"/v1/certificates/{identifier}/verify")) == (503, "draining")


@pytest.mark.parametrize("path", ["A" * 32, "A" * 31, "A" * 5000, "a%00b", "%F0%9F%98%80", "..%2Fx"])
def test_unknown_certificates(server: Running, path: str) -> None:
    for response in (
        server.client.get(f"/v1/certificates/{path}"),
        server.post(f"/v1/certificates/{path}/verify"),
    ):
        assert problem(response) in {(404, "unknown_certificate"), (404, "not_found")}
    assert problem(server.client.get(f"/v1/certificates/{'A' * 32}")) == (404, "unknown_certificate")


# ---------------------------------------------------------------- what fails


@contextmanager
def full_disk() -> Iterator[None]:
    """SQLite may not make its files any larger."""

    def limit(connection: Any, _: Any) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", limit)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", limit)


def test_a_full_disk_refuses_certificates_where_records_are_required(start: Start, tmp_path: Path) -> None:
    with start(data_dir=tmp_path) as server:
        identifier = certified(server)
        with full_disk():
            refused = server.certify(**CHEAP)
            assert problem(refused) == (503, "records_unavailable")
            assert int(refused.headers["retry-after"]) > 0
            assert server.predict(guarantee="heuristic").status_code == 200
            stored(server, identifier)
        assert rows(tmp_path / "certificates.sqlite") == 1
        assert (written(server, "stored"), written(server, "failed")) == (1.0, 1.0)
        stored(server, certified(server))


def test_a_full_disk_leaves_out_the_id_where_records_are_optional(start: Start, tmp_path: Path) -> None:
    with start(data_dir=tmp_path, records="optional") as server:
        certified(server)
        with full_disk():
            response = server.certify(**CHEAP)
            assert (response.status_code, response.json()["certificate_id"]) == (200, None)
        assert rows(tmp_path / "certificates.sqlite") == 1
        assert written(server, "failed") == 1.0
        stored(server, certified(server))


@pytest.fixture
def gone(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[bool], None]:
    """Takes the test's database away (True) and brings it back."""
    if request.node.callspec.params["database_url"] == "sqlite":
        file, away = tmp_path / "certificates.sqlite", tmp_path / "away"
        return lambda lost: (file.rename(away) if lost else away.rename(file), None)[1]
    cluster: Postgres = request.getfixturevalue("postgres")
    return lambda lost: cluster.stop() if lost else cluster.start()


@on_both
@pytest.mark.parametrize("records", ["required", "optional"])
def test_a_database_that_goes_away_and_comes_back(
    start: Start, tmp_path: Path, database_url: str, gone: Callable[[bool], None], records: str
) -> None:
    with start(data_dir=tmp_path / "data", database_url=database_url, records=records) as server:
        identifier = certified(server)
        cast = votes(server)
        assert 'surety_records_total{result="failed"} 0.0' in server.client.get("/metrics").text
        gone(True)
        try:
            assert problem(server.client.get(f"/v1/certificates/{identifier}")) == (503, "records_unavailable")
            response = server.certify(**CHEAP)
            if records == "required":
                assert problem(response) == (503, "records_unavailable")
                assert votes(server) == cast, "work was done for an answer that could not be given"
                assert written(server, "failed") == 1.0, "nobody is alarmed"
            else:
                assert (response.status_code, response.json()["certificate_id"]) == (200, None)
            assert server.client.get("/health/ready").status_code == 200
        finally:
            gone(False)
        assert verified(server, identifier)["verified"]
        stored(server, certified(server))


def test_a_server_starts_without_its_database_and_uses_it_once_it_is_there(
    start: Start, tmp_path: Path, postgres: Postgres
) -> None:
    url = postgres.create_database()
    postgres.stop()
    try:
        with start(data_dir=tmp_path, database_url=url) as server:
            assert problem(server.certify(**CHEAP)) == (503, "records_unavailable")
            postgres.start()
            stored(server, certified(server))
    except BaseException:
        postgres.run("pg_ctl", "restart", "-w", "-m", "immediate")
        raise


def test_without_records_nothing_is_stored(start: Start, tmp_path: Path) -> None:
    with start(data_dir=tmp_path / "data", records="off") as server:
        assert server.certify(**CHEAP).json()["certificate_id"] is None
        for path in (f"/v1/certificates/{'A' * 32}", "/v1/keys/signing"):
            assert problem(server.client.get(path)) == (404, "unknown_certificate")
        assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"data_dir": "file"}, {"signing_key": "missing"}, {"signing_key": "file"}, {"database_url": "no url"},
        {"database_url": "mysql://x/y"}, {"database_url": "sqlite://"},
    ],
    ids=lambda changes: "-".join(changes.values()),
)  # fmt: skip
def test_settings_that_cannot_work_end_the_process_with_a_message(
    start: Start, tmp_path: Path, changes: dict[str, str]
) -> None:
    (tmp_path / "file").write_text("neither a directory nor a key")
    paths = {name: value if name == "database_url" else tmp_path / value for name, value in changes.items()}
    with start(wait=False, **{"data_dir": tmp_path / "data", **paths}) as server:
        until(lambda: server.services.lifecycle.failure is not None)
        message = server.services.lifecycle.failure
        assert message is not None
        assert "SURETY_" in message or str(tmp_path) in message
        assert "loading failed" not in message


def test_a_passwords_place_is_not_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store("postgresql://surety:secret-word@127.0.0.1:1/none?connect_timeout=2")
    with pytest.raises(Exception, match="try again later"):
        store.open()
    assert "records' database failed" in caplog.text
    assert "secret-word" not in caplog.text


# ---------------------------------------------------------------- retention and deletion


@on_both
def test_retention_deletes_the_oldest(start: Start, tmp_path: Path, database_url: str) -> None:
    """1300 records, in batches: 600 too old, 200 of the others too many."""
    store, now = Store(database_url), time.time()
    created = [now - 86400 * (10 if i < 600 else 1) + i for i in range(1300)]
    with store.transaction() as connection:
        values = [{"id": f"{i:032}", "created": made, "signed": "{}", "image": None} for i, made in enumerate(created)]
        connection.execute(sqlalchemy.insert(CERTIFICATES), values)
    given = {"records_max_days": 7, "records_max_count": 500}
    with start(data_dir=tmp_path / "data", database_url=database_url, **given) as server:
        until(lambda: store.count() == 500)
        assert store.get(f"{799:032}") is None
        assert store.get(f"{800:032}") is not None
        stored(server, certified(server))
        assert server.services.records.trim() == 1
        assert store.get(f"{800:032}") is None
    store.close()


@on_both
def test_servers_that_trim_at_once_keep_as_many_as_they_shall(
    start: Start, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server trims between a server's look and its deletion; then both trim at once."""
    given = {"database_url": database_url, "records_max_count": 5}
    with start(data_dir=tmp_path / "one", **given) as one, start(data_dir=tmp_path / "other", **given) as other:
        store, delete = one.services.records.store, Store.delete_oldest
        assert store is not None

        def late(*what: Any, **named: Any) -> int:
            monkeypatch.setattr(Store, "delete_oldest", delete)
            assert other.services.records.trim() == 15
            return delete(*what, **named)

        for i in range(20):
            store.add(Record(f"{i:032}", float(i), "{}", None))
        monkeypatch.setattr(Store, "delete_oldest", late)
        assert one.services.records.trim() == 0
        assert store.count() == 5
        for i in range(20, 40):
            store.add(Record(f"{i:032}", float(i), "{}", None))
        with ThreadPoolExecutor(2) as pool:
            deleted = pool.map(lambda server: server.services.records.trim(), (one, other))
        assert (sum(deleted), store.count()) == (20, 5)
        assert store.get(f"{35:032}") is not None


def test_retention_looks_again_and_again(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.records.RETENTION_SECONDS", 0.05)
    with start(data_dir=tmp_path, records_max_count=2) as server:
        for _ in range(4):
            certified(server)
        until(lambda: rows(tmp_path / "certificates.sqlite") == 2)


def test_deletion_is_the_operators_choice(start: Start, tmp_path: Path) -> None:
    with start(data_dir=tmp_path) as server:
        identifier = certified(server)
        assert problem(server.client.delete(f"/v1/certificates/{identifier}")) == (403, "deletion_disabled")
        stored(server, identifier)
    with start(data_dir=tmp_path, records_deletion=True) as server:
        kept, delete = certified(server), partial(server.client.delete, f"/v1/certificates/{identifier}")
        response = delete()
        assert (response.status_code, response.content) == (204, b"")
        assert problem(delete()) == (404, "unknown_certificate")
        assert problem(server.client.get(f"/v1/certificates/{identifier}")) == (404, "unknown_certificate")
        stored(server, kept)
