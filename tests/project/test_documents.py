"""What the documents say about the interface is what the service has."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from models.card import read_card
from service.errors import ERROR_TABLE, HTTP_KINDS, INTERNAL
from service.schemas import CertifyFields, CertifyReply, PredictFields, PredictReply
from service.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()
INFERENCE = (ROOT / "docs" / "inference.md").read_text()
MODELS = (ROOT / "docs" / "models.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def code_words(text: str) -> set[str]:
    """Everything that is set in code style."""
    return set(re.findall(r"`(\w+)`", text))


def test_api_page_names_every_problem_with_its_status():
    rows = re.findall(r"^\| (`.*) \| (\d{3}) \|$", API, re.M)
    found = {(label, int(status)) for labels, status in rows for label in code_words(labels)}
    kinds = [*ERROR_TABLE.values(), *HTTP_KINDS.values(), INTERNAL]
    assert found == {(kind.label, kind.status) for kind in kinds}


def test_api_page_names_every_field_of_requests():
    table = API.split("## Requests")[1].split("## Replies")[0]
    named = {word for row in re.findall(r"^\| (`[^|]*) \|", table, re.M) for word in code_words(row)}
    assert named == {"image", *CertifyFields.model_fields}
    missing = set(CertifyFields.model_fields) - set(PredictFields.model_fields)
    assert "Predict takes the same fields but `attack_range`, `wanted_radius`, `n_error` and `image_is`" in table
    assert missing == {"attack_range", "wanted_radius", "n_error", "image_is"}


@pytest.mark.parametrize("reply", [CertifyReply, PredictReply], ids=lambda reply: reply.__name__)
def test_api_page_names_every_field_of_replies(reply):
    section = API.split("## Replies of certify")[1].split("## Problems")[0]
    text = section.split("Predict replies with")[1] if reply is PredictReply else section
    assert set(reply.model_fields) <= code_words(text)


def test_readme_calls_every_endpoint_the_service_has(tmp_path):
    from service.app import create_app

    app = create_app(Settings(zoo=tmp_path))
    paths = set(app.openapi()["paths"])
    called = set(re.findall(r"http://127\.0\.0\.1:8000(/(?:v1|health|metrics)[\w/-]*)", README))
    of_protocol = {path for path in paths if path.startswith("/v2")}
    examples = {"{model_id}": "mnist-rotation", "{certificate_id}": "ID", "{job_id}": "ID"}
    assert called == {re.sub(r"\{\w+\}", lambda name: examples[name[0]], path) for path in paths - of_protocol}
    rows = re.findall(r"^\| `(?:GET|POST) (/v2[^`]*)` \|", INFERENCE, re.M)
    versions = [row.replace("{model_id}", "{model_id}/versions/{version}") for row in rows]
    assert {*rows, *versions} == of_protocol


def test_documents_link_to_files_that_exist():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_card_in_the_models_page_is_one_that_is_accepted(tmp_path):
    text = re.search(r"```toml\n(.*?)```", MODELS, re.S).group(1)
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"")
    card = folder / "card.toml"
    card.write_text(text.replace('sha256 = "..."', f'sha256 = "{"0" * 64}"'))
    assert read_card(card).id == "my-model"


def test_pins_are_exact_and_the_same_everywhere():
    extras = PROJECT["project"]["optional-dependencies"]
    pins = PROJECT["project"]["dependencies"] + extras["dev"] + extras["cuda"] + extras["otel"] + extras["ray"]
    assert all(re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+", pin) for pin in pins)
    torch = re.search(r"^TORCH := (\S+)$", (ROOT / "Makefile").read_text(), re.M).group(1)
    assert torch in pins
    assert set(extras["cuda"]) | set(extras["otel"]) | set(extras["ray"]) <= set(extras["dev"])


def test_ci_entry_runs_the_whole_suite():
    entry = ROOT / ".ci" / "run"
    assert os.access(entry, os.X_OK)
    text = entry.read_text()
    assert "set -euo pipefail" in text
    assert text.rstrip().endswith("make audit\nmake test")
