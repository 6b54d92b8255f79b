"""Keys: their file and its commands, who is known by them, rates and budgets."""

from __future__ import annotations

import hmac
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import service.computing
import service.keys
from service.access import Meter
from service.cli import main
from service.errors import BudgetError, RateError, UnauthenticatedError
from service.keys import Keyring, KeysError, Scope, make_key, read_keys, write_keys

# the file and its commands


def test_a_new_key_is_printed_once_and_its_file_holds_a_hash_for_its_owner_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.json"
    assert main(["keys", "new", "--name", "lab", "--scopes", "predict,admin", "--rate", "60", "--file", str(path)]) == 0
    key = capsys.readouterr().out.strip()
    assert re.fullmatch(r"surety\.lab\.[\w-]{43}", key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key.rsplit(".", 1)[1] not in path.read_text()
    entry = Keyring(path).find(key)
    assert (entry.scopes, entry.requests_per_minute, entry.votes_per_day) == ((Scope.ADMIN, Scope.PREDICT), 60, None)


def test_keys_are_listed_without_hashes_and_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys.json"
    monkeypatch.setenv("SURETY_KEYS_FILE", str(path))
    new = ["keys", "new", "--scopes", "certify"]
    assert main([*new, "--name", "one", "--budget", "5", "--expires", "2001-01-01"]) == 0
    assert main([*new, "--name", "two"]) == 0
    capsys.readouterr()
    assert main(["keys", "list"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "one  certify  no rate, 5 votes a day, EXPIRED 2001-01-01T00:00:00+00:00"
    assert second == "two  certify  no rate, no budget, does not expire"
    assert main(["keys", "revoke", "--name", "one"]) == 0
    assert list(read_keys(path)) == ["two"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["new", "--name", "there", "--scopes", "predict"], "there is a key 'there'"),
        (["new", "--name", "Not A Name", "--scopes", "predict"], "name: "),
        (["new", "--name", "x", "--scopes", "predict", "--rate", "0"], "requests_per_minute: "),
        (["revoke", "--name", "nobody"], "there is no key 'nobody'"),
        (["list", "--file", "none.json"], "none.json: No such file"),
    ],
)
def test_wrong_key_commands_are_explained_and_change_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "keys.json"
    write_keys(path, {"there": make_key("there", [Scope.PREDICT])[1]})
    before = path.read_bytes()
    monkeypatch.setenv("SURETY_KEYS_FILE", str(path))
    assert main(["keys", *words]) == 2
    assert complaint in capsys.readouterr().err
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["keys.json"]


@pytest.mark.parametrize("words", [["--scopes", "root"], ["--scopes", ""], ["--scopes", "admin", "--expires", "soon"]])
def test_unknown_scopes_and_dates_are_refused(tmp_path: Path, words: list[str]) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(SystemExit, match="2"):
        main(["keys", "new", "--name", "x", "--file", str(path), *words])
    assert not path.exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"keys": [{}]}', '{"keys": [], "more": 1}', '{"keys": [ENTRY, ENTRY]}']
)
def test_a_file_that_holds_anything_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text.replace("ENTRY", make_key("a", [Scope.ADMIN])[1].model_dump_json()))
    with pytest.raises(KeysError, match=r"keys\.json: "):
        Keyring(path)


# the keyring


def test_a_keyring_notices_new_and_revoked_keys_and_survives_a_broken_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.json"
    (one, first), (two, second) = make_key("one", [Scope.ADMIN]), make_key("two", [Scope.ADMIN])
    write_keys(path, {"one": first})
    keyring = Keyring(path)
    write_keys(path, {"one": first, "two": second})
    assert keyring.find(two).name == "two"
    write_keys(path, {"two": second})
    with pytest.raises(UnauthenticatedError):
        keyring.find(one)
    path.write_text("{")
    assert keyring.find(two).name == "two"
    path.unlink()
    assert keyring.find(two).name == "two"
    assert "keys.json" in caplog.text
    write_keys(path, {})
    with pytest.raises(UnauthenticatedError):
        keyring.find(two)


def test_what_is_not_a_key_is_not_let_in_and_is_compared_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown name costs a hash and a comparison as a wrong secret does, each in constant time."""
    path, entries, known = tmp_path / "keys.json", {}, {}
    for name, expires in (("reader", None), ("old", datetime.now(UTC) - timedelta(seconds=1))):
        known[name], entries[name] = make_key(name, [Scope.PREDICT], expires=expires)
    write_keys(path, entries)
    keyring, compared = Keyring(path), []

    class Counted:
        @staticmethod
        def compare_digest(a: str, b: str) -> bool:
            compared.append((len(a), len(b)))
            return hmac.compare_digest(a, b)

    monkeypatch.setattr(service.keys, "hmac", Counted)
    right = known["reader"]
    wrong = [
        right[:-1] + ("A" if right[-1] != "A" else "B"), right + "x", right[:-1], right.upper(), "surety.reader.",
        "surety.nobody." + right.rsplit(".", 1)[1], read_keys(path)["reader"].hash, "surety..", ".", "é" * 50,
        known["old"],
    ]  # fmt: skip
    for presented in wrong:
        with pytest.raises(UnauthenticatedError, match=r"^the API key is not valid$"):
            keyring.find(presented)
    assert keyring.find(right).name == "reader"
    assert compared == [(64, 64)] * (len(wrong) + 1)


# rates and budgets


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_any_minute_holds_at_most_the_rate() -> None:
    clock = Hands()
    meter, key = Meter(clock, clock), make_key("a", [Scope.PREDICT], requests_per_minute=3)[1]
    for clock.now in (0.0, 50.0, 59.0):
        meter.admit(key, spends=True)
    clock.now = 59.5
    with pytest.raises(RateError) as refused:
        meter.admit(key, spends=True)
    assert refused.value.members == {"maximum": 3, "retry_after_seconds": 1}
    clock.now = 60.0
    meter.admit(key, spends=True)
    with pytest.raises(RateError) as refused:
        meter.admit(key, spends=False)
    assert refused.value.members["retry_after_seconds"] == 50
    lowered = key.model_copy(update={"requests_per_minute": 1})
    with pytest.raises(RateError) as refused:
        meter.admit(lowered, spends=False)
    assert refused.value.members["retry_after_seconds"] == 60
    meter.admit(make_key("b", [Scope.PREDICT])[1], spends=True)


def test_a_budget_lasts_until_midnight_utc() -> None:
    clock = Hands()
    meter, key = Meter(clock, clock), make_key("a", [Scope.PREDICT], votes_per_day=100)[1]
    clock.now = 86_400.0 * 20_000 + 86_000.5
    meter.admit(key, spends=True)
    meter.charge(key, 99)
    meter.admit(key, spends=True)
    meter.charge(key, 1)
    with pytest.raises(BudgetError) as refused:
        meter.admit(key, spends=True)
    assert refused.value.members == {"maximum": 100, "retry_after_seconds": 400}
    meter.admit(key, spends=False)
    clock.now += 400
    meter.admit(key, spends=True)
