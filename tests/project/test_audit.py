"""``make audit``: what fails it and what does not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[2] / ".ci"
SPEC = importlib.util.spec_from_file_location("audit", FOLDER / "audit.py")
audit = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)

FINE = {"name": "fine", "version": "1.0", "vulns": []}
HURT = {
    "name": "hurt", "version": "2.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.1"]}],
}  # fmt: skip
UNKNOWN = {"name": "unknown", "skip_reason": "Dependency not found on PyPI"}


def test_a_known_vulnerability_fails_unless_it_is_accepted_by_any_of_its_names():
    lines, failed = audit.judge({"dependencies": [FINE, HURT]}, {}, [])
    assert failed
    assert lines[0] == "audit: hurt 2.0: PYSEC-1 CVE-1, fixed in 2.1: VULNERABLE"
    for name in ("PYSEC-1", "CVE-1"):
        lines, failed = audit.judge({"dependencies": [FINE, HURT]}, {name: "never called"}, [])
        assert not failed
        assert lines[0].endswith("accepted (never called)")
    lines, failed = audit.judge({"dependencies": [FINE, HURT]}, {"CVE-2": "never called"}, [])
    assert failed
    assert "audit: CVE-2 is accepted but was not found: remove it" in lines


def test_what_was_not_audited_is_said():
    lines, failed = audit.judge({"dependencies": [FINE, UNKNOWN]}, {}, [])
    assert not failed
    assert lines == [
        "audit: NOT AUDITED, unknown to the advisory service: unknown",
        "audit: 1 of 2 installed packages were audited",
    ]
    assert not audit.judge({"dependencies": [UNKNOWN]}, {"CVE-1": "never called"}, [])[1]


def test_a_package_of_ours_that_a_service_does_not_know_fails_unless_it_knows_nothing():
    lines, failed = audit.judge({"dependencies": [FINE, UNKNOWN]}, {}, ["unknown", "fine"])
    assert failed
    assert lines[0] == "audit: unknown: the advisory service does not know the installed version"
    assert not audit.judge({"dependencies": [UNKNOWN]}, {}, ["unknown"])[1]


def test_local_versions_are_audited_as_the_public_ones():
    installed = [
        SimpleNamespace(name="torch", version="2.13.0+cpu"), SimpleNamespace(name="Typing_Extensions", version="4.1"),
        SimpleNamespace(name="surety", version="0.1.0"),
    ]  # fmt: skip
    assert audit.pinned(installed) == ["torch==2.13.0", "typing-extensions==4.1"]
    assert {"torch", "ray", "psycopg-binary"} <= audit.named()


@pytest.mark.parametrize(
    ("script", "status", "said"),
    [
        ("print('{\"dependencies\": []}')", 0, "0 of 0"),
        ("import sys; sys.exit('requests.exceptions.ConnectionError: no route')", 0, "NOT AUDITED"),
        ("import sys; sys.exit('error: unrecognized arguments')", 2, "unrecognized"),
    ],
)
def test_only_an_unreachable_service_is_forgiven(monkeypatch, capsys, script, status, said):
    monkeypatch.setattr(audit, "PIP_AUDIT", (sys.executable, "-c", script))
    assert audit.main() == status
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def test_accepted_advisories_have_reasons(tmp_path):
    audit.read_accepted(FOLDER / "audit.toml")
    path = tmp_path / "audit.toml"
    path.write_text('[accepted]\n"CVE-1" = " "\n')
    with pytest.raises(ValueError, match="CVE-1 is accepted without a reason"):
        audit.read_accepted(path)


def test_pip_audit_takes_the_options(tmp_path):
    """Collects the installed packages without asking the service."""
    listed = tmp_path / "requirements.txt"
    listed.write_text("\n".join(audit.pinned(distributions())))
    run = subprocess.run([*audit.PIP_AUDIT, listed, "--dry-run"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
