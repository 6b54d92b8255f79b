"""docs/operations.md names every setting with its default, and every metric with its kind and labels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from service.engine import Engine
from service.metrics import Metrics
from service.settings import SHIPPED_ZOO, Settings

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def rows(heading: str) -> dict[str, list[str]]:
    """The cells of the tables under a heading, by their first cell without its code marks."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split(" |") for line in section.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in lines}


def shown(default: object) -> str:
    if default == SHIPPED_ZOO:
        return "the shipped models"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_every_setting_that_can_be_none_is_unset_by_that_word(monkeypatch):
    optional = [name for name, field in Settings.model_fields.items() if type(None) in get_args(field.annotation)]
    assert "jobs_max_days" in optional
    for name in optional:
        monkeypatch.setenv(f"SURETY_{name.upper()}", "none")
    assert [getattr(Settings(), name) for name in optional] == [None] * len(optional)


def test_every_setting_is_listed():
    fields = {f"SURETY_{name.upper()}": field for name, field in Settings.model_fields.items()}
    listed = rows("Settings")
    assert sorted(set(fields) - set(listed)) == [], "missing from docs/operations.md"
    assert sorted(set(listed) - set(fields)) == [], "in docs/operations.md, but no such setting"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_settings_are_listed_with_their_defaults_and_a_meaning(name):
    default, meaning = rows("Settings")[f"SURETY_{name.upper()}"]
    assert default == shown(Settings.model_fields[name].default)
    assert meaning


def metrics() -> dict[str, tuple[str, list[str]]]:
    """Kind and labels of every metric by the name that Prometheus shows."""
    families = Metrics(Engine(1, 0.0)).registry
    found = {}
    for collector in list(families._collector_to_names):
        family = next(iter(collector.collect()))
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, sorted(getattr(collector, "_labelnames", ())))
    return found


def test_every_metric_is_listed():
    listed = rows("Metrics")
    assert sorted(set(metrics()) - set(listed)) == [], "missing from docs/operations.md"
    assert sorted(set(listed) - set(metrics())) == [], "in docs/operations.md, but no such metric"


@pytest.mark.parametrize("name", metrics())
def test_metrics_are_listed_with_kind_labels_and_a_meaning(name):
    kind, labels = metrics()[name]
    listed_kind, listed_labels, meaning = rows("Metrics")[name]
    assert listed_kind == kind
    if name != "surety_device_memory_bytes":  # a collector of its own has no list of labels
        assert sorted(re.findall(r"`(\w+)`", listed_labels)) == labels
    assert meaning
