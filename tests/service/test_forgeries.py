"""Certificates that were altered are not verified, whoever signed them and wherever they lie."""

from __future__ import annotations

import copy
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.engine import Cancellation
from service.signing import Signed, SigningError, SigningKey, canonical
from service.verification import NotVerified, Verification

from .conftest import Running, Start
from .job_tools import CHANCY
from .pictures import encode, grey
from .record_tools import certified, stored, verified


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
