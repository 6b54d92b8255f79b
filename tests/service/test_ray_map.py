"""Evaluations and calibrations as tasks of a local cluster: the rows of one process, though a worker is killed."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from models import calibrate, evaluate
from models.records import Map
from service import cli, ray_map
from tests.models.made_digits import write_made_digits

from .clusters import ray_environment

CARD = Path(__file__).parents[2] / "models" / "zoo" / "mnist-rotation" / "card.toml"
EVALUATE = ["--guarantee", "heuristic", "--attack-range", "10", "--images", "3", "--attack", "2"]
EVALUATE += ["--procedure", "paper", "--n", "200"]
CALIBRATE = ["--attack-range", "3", "--image-is", "received", "--images", "5", "--pilot-images", "2"]
CALIBRATE += ["--error-bound", "9"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = write_made_digits(tmp_path_factory.mktemp("data"), train=7, test=3)
    return root


@pytest.fixture(scope="module")
def mapped() -> Iterator[Map]:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    with ray_environment(), ray_map.cluster_map(ray_map.LOCAL) as found:
        yield found


def killed_once(mapped: Map, marker: Path) -> Map:
    """The same, but the first of the workers that come to the second item dies of it."""

    def dying_map(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterable[Any]:
        items = list(items)

        def dying(item: Any) -> Any:
            if item == items[1] and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return function(item)

        return mapped(dying, items)

    return dying_map


def result(module: Any, words: list[str], root: Path, out: Path, mapped: Map) -> dict[str, Any]:
    """What a command writes, without what no two runs have in common."""
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    assert module.run(parser.parse_args([str(CARD), "--data", str(root), *words, "--out", str(out)]), mapped) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    for row in found.get("rows", []):
        row.pop("seconds")
    found.get("summary", {}).pop("median_seconds", None)
    return found


@pytest.mark.parametrize(("module", "words"), [(evaluate, EVALUATE), (calibrate, CALIBRATE)])
def test_tasks_give_what_one_process_does_though_a_worker_is_killed(
    module: Any, words: list[str], root: Path, tmp_path: Path, mapped: Map, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "CHUNK", 2)
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    here = result(module, words, root, tmp_path / "here" / "one.json", map)
    marker = tmp_path / "killed"
    there = result(module, words, root, tmp_path / "there" / "one.json", killed_once(mapped, marker))
    assert marker.exists()
    assert there == here


def test_the_option_leads_to_the_cluster(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it there is none; the record of the command is the same with both."""
    asked: list[tuple[str, float]] = []

    @contextmanager
    def no_cluster(address: str, *, num_gpus: float) -> Iterator[Map]:
        asked.append((address, num_gpus))
        yield map

    monkeypatch.setattr(ray_map, "cluster_map", no_cluster)
    records = []
    for option in ([], ["--ray", "ray://somewhere:10001"]):
        out = tmp_path / "result.json"
        words = ["evaluate", str(CARD), "--data", str(root), *EVALUATE, "--device", "cpu", "--out", str(out), *option]
        assert cli.main(words) == 0
        records.append(json.loads(out.read_text())["command"])
    assert asked == [("ray://somewhere:10001", 0.0)]
    assert records[0] == records[1]
    assert "certified right" in capsys.readouterr().out


def test_without_the_extra_the_option_says_what_to_install(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["calibrate", str(CARD), "--data", str(root), *CALIBRATE, "--ray", "auto", "--out", str(tmp_path / "one")]
    assert cli.main(words) == 2
    assert "surety[ray]" in capsys.readouterr().err
