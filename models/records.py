"""Long runs that survive being stopped, and what a result says about where it comes from."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from tqdm import tqdm

from certification import __version__

T = TypeVar("T")
R = TypeVar("R")


class Map(Protocol):
    """As the built-in ``map``: calls that know nothing of one another, results in the order of the items."""

    def __call__(self, function: Callable[[T], R], items: Iterable[T], /) -> Iterable[R]:
        """Results of ``function``; on other machines it must be possible to pickle it."""


def collect_rows(
    rows_file: Path, task: str, count: int, row_of: Callable[[int], dict[str, Any]], mapped: Map = map
) -> list[dict[str, Any]]:
    """``row_of(0)`` to ``row_of(count - 1)``, each written down as soon as it is known.

    Parameters
    ----------
    rows_file : Path
        Its first line is the task, the others are rows; a run that was stopped goes on behind the last whole one.
    task : str
        One line that names everything the rows depend on; rows of another task are thrown away.
    count : int
    row_of : callable
        Returns what JSON can hold.
    mapped : Map
        Calls it: one after another by default.
    """
    lines = rows_file.read_text().split("\n")[:-1] if rows_file.is_file() else []
    if lines[:1] != [task]:
        lines = [task]
    rows_file.parent.mkdir(parents=True, exist_ok=True)
    # written anew, so that a half-written last line is gone
    rows_file.write_text("".join(line + "\n" for line in lines))
    with tqdm(total=count, initial=len(lines) - 1, desc=rows_file.stem, mininterval=2.0, smoothing=0.05) as progress:
        for row in mapped(row_of, range(len(lines) - 1, count)):
            lines.append(json.dumps(row))
            with rows_file.open("a") as file:
                file.write(lines[-1] + "\n")
            progress.update()
    return [json.loads(line) for line in lines[1 : count + 1]]


def record_of(device: str) -> dict[str, Any]:
    """Date, version, commit and machine of a result."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "commit": commit(),
        "machine": {"processor": platform.machine(), "cores": torch.get_num_threads(), "device": device},
    }


def commit() -> str | None:
    """The commit that runs, with "+" if files were changed since; None outside a repository."""
    words = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
