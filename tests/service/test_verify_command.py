"""``surety verify``: a certificate, its image and a key, as files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.cli import main
from service.signing import SigningKey

from .conftest import Running
from .pictures import encode, grey
from .record_tools import certified


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


def test_surety_verify_has_no_deadline(
    files: dict[str, Path], zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server with these settings could not verify anything in time."""
    for name in ("DEFAULT", "MAX"):
        monkeypatch.setenv(f"SURETY_{name}_DEADLINE_MS", "1")
    assert main(["verify", str(files["certificate"]), "--image", str(files["image"]), "--zoo", str(zoo)]) == 0
    assert capsys.readouterr().out.startswith("verified\n")


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
