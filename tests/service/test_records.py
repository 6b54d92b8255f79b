"""Certificates are stored durably, read back as they were signed, and verified by making the run again."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certification import __version__
from service.cli import main
from service.engine import Cancellation
from service.signing import Signed, SigningError, SigningKey, canonical
from service.store import CERTIFICATES, Record, RecordsError, Store
from service.verification import NotVerified, Verification

from .conftest import COMPILING, Running, Start, until
from .databases import Postgres, postgres_cluster
from .pictures import SIDE, encode, grey

ROOT = Path(__file__).resolve().parents[2]
CHEAP = {"guarantee": "heuristic", "model": "constant-rotation"}
CHANCY = {"transformation": "l2", "guarantee": "individual", "model": "undecided", "procedure": "paper", "n": 300}
"""Counts that depend on every bit of the noise."""
DATABASES = ["sqlite", "postgresql"]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_cluster() as cluster:
        yield cluster


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of the kind that the test is parametrized with."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'certificates.sqlite'}"
    cluster: Postgres = request.getfixturevalue("postgres")
    return cluster.create_database()


def on_both(test: Any) -> Any:
    return pytest.mark.parametrize("database_url", DATABASES, indirect=True)(test)


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


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].removeprefix("urn:surety:problem:")


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


def votes(server: Running) -> list[str]:
    return [line for line in server.client.get("/metrics").text.splitlines() if line.startswith("surety_votes_total")]


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


# ---------------------------------------------------------------- forgeries


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in a JSON value that is no object."""
    if isinstance(value, dict) and value:
        for name, member in value.items():
            yield from leaves(member, (*path, name))
    else:
        yield path


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    made = copy.deepcopy(value)
    node = made
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = new
    return made


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


def altered(value: Any) -> st.SearchStrategy[Any]:
    """Other values, of the same type and of others."""
    near: list[Any] = [None, True, False, "", 0, [], {}]
    if isinstance(value, bool):
        near.append(not value)
    elif isinstance(value, int):
        near += [value + 1, value - 1, float(value)]
    elif isinstance(value, float):
        near += [np.nextafter(value, np.inf).item(), -value, 2 * value]
    elif isinstance(value, str):
        near += [value + "0", value[::-1], value.upper()]
    other = [one for one in near if canonical(one) != canonical(value)]
    return st.sampled_from(other)


def check(signed: Signed, server: Running, public_key: bytes | None) -> bool:
    """Verify in this process with the server's models."""
    try:
        verification = Verification(signed, server.services.lifecycle.certifier, public_key)
        task = verification.prepare(encode(grey(), "PNG"))
    except NotVerified as refusal:
        return refusal.reply.verified
    return verification.replay(task, Cancellation()).verified


@pytest.fixture(scope="module")
def envelope(server: Running) -> dict[str, Any]:
    """A certificate whose numbers depend on the noise, and which holds as it is."""
    found = stored(server, certified(server, **CHANCY))
    assert check(Signed.from_text(json.dumps(found)), server, server.services.records.signing_key.public_key)
    return found


QUIETLY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)


@QUIETLY
@given(data=st.data())
def test_nothing_that_is_signed_can_be_changed(server: Running, envelope: dict[str, Any], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(list(leaves(envelope))))
    forged = changed(envelope, path, data.draw(altered(at(envelope, path))))
    try:
        signed = Signed.from_text(json.dumps(forged))
    except SigningError:
        return
    assert not check(signed, server, None)


def test_a_forger_with_a_key_of_his_own_is_known_by_it(server: Running, envelope: dict[str, Any]) -> None:
    signed = SigningKey(Ed25519PrivateKey.generate()).sign(envelope["certificate"])
    assert check(signed, server, None)
    assert not check(signed, server, server.services.records.signing_key.public_key)


@settings(QUIETLY, max_examples=40)
@given(data=st.data())
def test_a_forger_with_a_key_of_his_own_cannot_change_what_is_claimed(
    server: Running, envelope: dict[str, Any], data: st.DataObject
) -> None:
    """Where no key is trusted, the model, the image and the run made again still speak against him."""
    key, document = SigningKey(Ed25519PrivateKey.generate()), envelope["certificate"]
    claims = [
        path
        for path in leaves(document)
        if path[0] in ("reply", "model", "image", "noise_key", "schema")
        and path[:2] not in {("reply", "seconds"), ("reply", "version"), ("image", "sha256")}
    ]
    path = data.draw(st.sampled_from(claims))
    assert not check(key.sign(changed(document, path, data.draw(altered(at(document, path))))), server, None)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("plan", "sigma_delta"), 0.1), (("plan", "lattice_loss"), 0.0), (("plan", "operator_norm"), 0.5),
        (("plan", "alpha"), 0.5), (("plan", "attack_range", "half_width"), 0.01), (("plan", "invented"), 1),
        (("plan", "n"), 7), (("plan", "transformation"), "rotation"), (("plan", "n0"), 7),
        (("plan", "guarantee"), "heuristic"), (("plan", "calibration"), {}),
        (("noise_key",), "00" * 32), (("reply", "invented"), None), (("invented",), 1),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_forged_plan_is_not_verified(
    server: Running, envelope: dict[str, Any], path: tuple[str, ...], value: Any
) -> None:
    forged = changed(envelope["certificate"], path, value)
    assert not check(SigningKey(Ed25519PrivateKey.generate()).sign(forged), server, None)


def test_a_transformation_the_model_does_not_serve_is_not_verified(server: Running) -> None:
    document = stored(server, certified(server))["certificate"]
    forged = changed(document, ("plan", "transformation"), "translation")
    forged = changed(forged, ("plan", "attack_range", "transformation"), "translation")
    assert not check(SigningKey(Ed25519PrivateKey.generate()).sign(forged), server, None)


def test_a_forged_calibration_is_not_verified(server: Running) -> None:
    """A smaller stored error bound would make larger radii of the same votes."""
    document = stored(server, certified(server, guarantee="distributional"))["certificate"]
    key = SigningKey(Ed25519PrivateKey.generate())
    assert check(key.sign(document), server, None)
    forged = changed(document, ("plan", "calibration", "error_bound"), 0.01)
    assert not check(key.sign(forged), server, None)


def test_what_was_not_claimed_cannot_be_missing_unnoticed(server: Running, envelope: dict[str, Any]) -> None:
    key = SigningKey(Ed25519PrivateKey.generate())
    for name in ("radius", "counts", "statement", "alpha"):
        document = copy.deepcopy(envelope["certificate"])
        del document["reply"][name]
        assert not check(key.sign(document), server, None)


def test_a_record_that_was_altered_in_the_database_is_not_verified(start: Start, tmp_path: Path) -> None:
    with start(data_dir=tmp_path) as server:
        identifier = certified(server)
        connection = sqlite3.connect(tmp_path / "certificates.sqlite")
        with connection:
            connection.execute("UPDATE certificates SET signed = replace(signed, '\"label\":1', '\"label\":2')")
        connection.close()
        assert stored(server, identifier)["certificate"]["reply"]["label"] == 2
        found = verified(server, identifier)
        assert not found["verified"]
        assert "signature" in found["reason"]
        connection = sqlite3.connect(tmp_path / "certificates.sqlite")
        with connection:
            connection.execute("UPDATE certificates SET signed = substr(signed, 2)")
        connection.close()
        found = verified(server, identifier)
        assert (found["verified"], found["key_fingerprint"]) == (False, None)
        assert "damaged" in found["reason"]


def test_records_that_were_exchanged_in_the_database_are_not_verified(start: Start, tmp_path: Path) -> None:
    with start(data_dir=tmp_path) as server:
        mine, other = certified(server), certified(server, alpha=0.1)
        connection = sqlite3.connect(tmp_path / "certificates.sqlite")
        (text,) = connection.execute("SELECT signed FROM certificates WHERE id = ?", (other,)).fetchone()
        with connection:
            connection.execute("UPDATE certificates SET signed = ? WHERE id = ?", (text, mine))
        connection.close()
        found = verified(server, mine)
        assert (found["verified"], found["reason"]) == (False, "it is stored under another id")


def test_other_software_is_told_and_never_verified_where_the_answer_differs(
    server: Running, envelope: dict[str, Any]
) -> None:
    key = SigningKey(Ed25519PrivateKey.generate())
    document = changed(envelope["certificate"], ("runtime", "version"), "9.9.9")
    certifier = server.services.lifecycle.certifier
    for claimed, holds in ((document["reply"]["counts"]["passed"], True), (3, False)):
        signed = key.sign(changed(document, ("reply", "counts", "passed"), claimed))
        verification = Verification(signed, certifier, None)
        found = verification.replay(verification.prepare(encode(grey(), "PNG")), Cancellation())
        assert found.verified == holds
        assert [(one.field, one.recorded) for one in found.runtime_differences] == [("runtime.version", "9.9.9")]
        if not holds:
            assert found.reason is not None
            assert "other software" in found.reason
            assert [one.field for one in found.differences] == ["reply.counts.passed"]


# ---------------------------------------------------------------- surety verify


@pytest.fixture
def files(server: Running, tmp_path: Path) -> dict[str, Path]:
    """A certificate, its image and the public key, as files."""
    texts = {
        "certificate": server.client.get(f"/v1/certificates/{certified(server)}").content,
        "image": encode(grey(), "PNG"),
        "other": encode(grey(seed=1), "PNG"),
        "small": encode(grey(5, 5), "PNG"),
        "key": server.client.get("/v1/keys/signing").json()["public_key"].encode(),
        "text": b"no certificate",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    return {name: tmp_path / name for name in (*texts, "missing")}


@pytest.mark.parametrize(
    ("file", "image", "key", "status"),
    [
        ("certificate", "image", "key", 0), ("certificate", "image", None, 0), ("certificate", "other", "key", 1),
        ("certificate", "small", "key", 1), ("certificate", "text", "key", 1), ("missing", "image", "key", 2),
        ("certificate", "missing", "key", 2), ("certificate", "image", "missing", 2), ("text", "image", "key", 2),
        ("certificate", "image", "certificate", 2),
    ],
)  # fmt: skip
def test_surety_verify(
    files: dict[str, Path], zoo: Path, file: str, image: str, key: str | None, status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["verify", str(files[file]), "--image", str(files[image]), "--zoo", str(zoo)]
    words += [] if key is None else ["--public-key", str(files[key])]
    assert main(words) == status
    printed = capsys.readouterr()
    if status == 2:
        assert printed.err.startswith("surety: ")
    else:
        assert printed.out.startswith(("verified\n", "not verified: ")[status])
        assert ("no key that was given" in printed.out) == (key is None)
        assert main([*words, "--json"]) == status
        assert json.loads(capsys.readouterr().out)["verified"] == (status == 0)


def test_surety_verify_with_another_model_or_key(
    files: dict[str, Path], zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["verify", str(files["certificate"]), "--image", str(files["image"])]
    shutil.copytree(zoo, tmp_path / "zoo")
    card = tmp_path / "zoo" / "constant-rotation" / "card.toml"
    card.write_text(card.read_text().replace("made by the tests", "made by a forger"))
    assert main([*words, "--zoo", str(tmp_path / "zoo")]) == 1
    assert "model.digest" in capsys.readouterr().out
    shutil.rmtree(card.parent)
    assert main([*words, "--zoo", str(tmp_path / "zoo")]) == 1
    assert "no model constant-rotation" in capsys.readouterr().out
    assert main([*words, "--zoo", str(tmp_path / "nothing")]) == 2
    key = SigningKey(Ed25519PrivateKey.generate())
    (tmp_path / "key.pem").write_text(key.public_pem)
    assert main([*words, "--zoo", str(zoo), "--public-key", str(tmp_path / "key.pem")]) == 1
    assert "another key" in capsys.readouterr().out


# ---------------------------------------------------------------- what stays, whatever happens


@on_both
def test_a_restart_keeps_certificates_and_can_verify_them(start: Start, tmp_path: Path, database_url: str) -> None:
    """The noise of the second server has another secret: the recorded key makes the run."""
    given = {"data_dir": tmp_path / "data", "database_url": database_url}
    with start(**given) as server:
        identifier = certified(server, **CHANCY)
        before = stored(server, identifier)
    with start(**given) as server:
        assert stored(server, identifier) == before
        assert verified(server, identifier)["verified"]
        again = stored(server, certified(server, **CHANCY))
        assert again["certificate"]["noise_key"] != before["certificate"]["noise_key"]
        assert again["key_fingerprint"] == before["key_fingerprint"]


SERVE = """
import os, sys
import service.computing, service.server
from service.cli import main
service.computing.warm_up = lambda *what: None
for port in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        sys.exit(main(["serve", "--port", port]))
    print(child, flush=True)
for _ in sys.argv[1:]:
    os.wait()
"""
"""Several ``surety serve``, each a process of its own; they share the seconds that importing takes."""


@contextmanager
def processes(count: int, zoo: Path, **values: Any) -> Iterator[tuple[list[int], list[str]]]:
    """Process ids and URLs of servers that begin at the same time; ready once this yields."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    named = {f"SURETY_{name.upper()}": str(value) for name, value in values.items()}
    environment = {
        **os.environ, "SURETY_ZOO": str(zoo), "SURETY_DEVICE": "cpu", "SURETY_BATCH_SIZE": "64",
        "SURETY_WORKER": "thread", **named,
    }  # fmt: skip
    parent = subprocess.Popen(
        [sys.executable, "-c", SERVE, *ports],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert parent.stdout is not None
    try:
        children = [int(parent.stdout.readline()) for _ in ports]
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        until(lambda: all(answers(url) for url in urls), COMPILING)
        yield children, urls
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait(20)
        parent.stdout.close()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def certify_at(url: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/certify", files={"image": ("x", encode(grey(), "PNG"))}, data=CHEAP, timeout=60)


@on_both
def test_two_servers_share_a_database_and_kill_9_loses_nothing(zoo: Path, tmp_path: Path, database_url: str) -> None:
    """Both start at once on an empty database and an empty data directory."""
    with processes(2, zoo, data_dir=tmp_path / "data", database_url=database_url) as ((doomed, _), (one, other)):
        kept = [certify_at(url).json()["certificate_id"] for url in (other, one, other, one)]
        os.kill(doomed, signal.SIGKILL)
        until(lambda: not answers(one))
        found = [httpx.get(f"{other}/v1/certificates/{name}") for name in kept]
        assert [response.status_code for response in found] == [200] * 4
        assert len({response.json()["key_fingerprint"] for response in found}) == 1
        upload = {"image": ("x", encode(grey(), "PNG"))}
        reply = httpx.post(f"{other}/v1/certificates/{kept[3]}/verify", files=upload, timeout=60).json()
        assert reply["verified"], reply


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


def written(server: Running, result: str) -> float:
    lines = server.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith(f'surety_records_total{{result="{result}"'))


def rows(file: Path) -> int:
    connection = sqlite3.connect(file)
    (count,) = connection.execute("SELECT count(*) FROM certificates").fetchone()
    connection.close()
    return int(count)


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
        gone(True)
        try:
            assert problem(server.client.get(f"/v1/certificates/{identifier}")) == (503, "records_unavailable")
            response = server.certify(**CHEAP)
            if records == "required":
                assert problem(response) == (503, "records_unavailable")
                assert votes(server) == cast, "work was done for an answer that could not be given"
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


# ---------------------------------------------------------------- keys and migrations


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
