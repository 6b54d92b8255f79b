"""The error rates of every test and certificate, measured; and an attack on certificates of real digits.

Usage: ``python -m benchmarks.validity [--runs 1000000] [--out benchmarks/results/validity.json] [--data DATA]``; goes
on where it was stopped.

What ``tests/statistical`` does quickly, at length: the tests under their nulls (``counts``, ``nested``), certificates
where the truth is known (``end_to_end``), and procedures that are known to be invalid, which the same simulations must
notice. With ``--data``, MNIST's hardest test digits are certified and attacked (``attacker``). The exit status is 1 if
a rate is not as it should be.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certification import __version__
from models.data import load_mnist
from models.records import collect_rows, record_of
from tests.statistical import attacker, counts, end_to_end, nested
from tests.statistical.rates import Check, Rate
from tests.statistical.settings import SETTINGS, Effort, Setting

OUT = Path(__file__).resolve().parent / "results" / "validity.json"
PARTS = 20
"""A check is simulated in so many parts, each with a seed of its own."""
SHARE = 0.005
"""Runs through ``certify`` for each run that is simulated with all others at once."""
EFFORT = Effort(grid=13, random=16, starts=3, steps=10, samples=64, judged=4, votes=600, draws=60, inner_votes=96)
POOL = 10
"""Digits of which one, the hardest, is attacked."""


class Work:
    """All that is to do, as numbered rows: first the parts of the checks, then the digits of each setting."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.runs, self.seed, self.data = chosen.runs, chosen.seed, chosen.data
        self.digits = chosen.digits if chosen.data else 0
        every = [*counts.CHECKS, *nested.CHECKS, *end_to_end.checks(SHARE)]
        self.checks = [check for check in every if chosen.only in check.name]

    @property
    def task(self) -> str:
        """What the rows depend on."""
        names = [check.name for check in self.checks]
        return json.dumps([__version__, self.runs, self.seed, self.digits, names])

    @property
    def count(self) -> int:
        """Rows in all."""
        return len(self.checks) * PARTS + len(SETTINGS) * self.digits

    def row(self, index: int) -> dict[str, Any]:
        """One part of a check, or the attacks on one digit."""
        which, part = divmod(index, PARTS)
        if which < len(self.checks):
            check = self.checks[which]
            runs = (check.runs(self.runs) + part) // PARTS
            return {"runs": runs, "wrong": check.simulate(runs, np.random.default_rng([self.seed, which, part]))}
        place, number = divmod(index - len(self.checks) * PARTS, self.digits)
        rows: list[dict[str, Any]] = []
        for digit in self._hardest[place][number : number + 1]:
            found = attacker.attack(SETTINGS[place], self._images[0][digit], digit, EFFORT, self.seed)
            rows += [one.row() for one in found]
        return {"attacks": rows}

    def rate(self, rows: list[dict[str, Any]], check: Check) -> Rate:
        """Of a check, from all rows."""
        first = self.checks.index(check) * PARTS
        parts = rows[first : first + PARTS]
        return Rate(check, sum(part["wrong"] for part in parts), sum(part["runs"] for part in parts))

    def attacks(self, rows: list[dict[str, Any]], setting: Setting) -> dict[str, Any]:
        """On one setting, from all rows."""
        first = len(self.checks) * PARTS + SETTINGS.index(setting) * self.digits
        found = [one for row in rows[first : first + self.digits] for one in row["attacks"]]
        return {
            "setting": setting.name,
            "digits": self.digits,
            "certificates": len(found),
            "candidates": sum({one["digit"]: one["candidates"] for one in found}.values()),
            "violated": sum(one["violated"] for one in found),
            "smallest_doubt": min((doubt for one in found for doubt in one["doubts"]), default=None),
            "attacks": found,
        }

    @functools.cached_property
    def _images(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        images, labels = load_mnist(self.data, train=False)
        return images[: POOL * self.digits], labels[: POOL * self.digits]

    @functools.cached_property
    def _hardest(self) -> list[list[int]]:
        """For each setting."""
        return [attacker.hardest(setting, *self._images, self.digits, samples=32) for setting in SETTINGS]


def main(words: list[str]) -> int:
    """Simulate, attack, write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000, help="of the cheapest checks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="checks whose name contains this")
    parser.add_argument("--data", type=Path, help="root of MNIST in torchvision's layout; without it, no attack")
    parser.add_argument("--digits", type=int, default=20, help="attacked in each setting")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON file of the results")
    chosen = parser.parse_args(words)
    work, rows_file = Work(chosen), chosen.out.with_suffix(".rows")
    rows = collect_rows(rows_file, work.task, work.count, work.row)
    rates = [work.rate(rows, check) for check in work.checks]
    attacks = [work.attacks(rows, setting) for setting in SETTINGS] if work.digits else []
    objections = [objection for rate in rates for objection in rate.objections()]
    violated = sum(row["violated"] for row in attacks)
    result = {
        "command": _command(chosen),
        **record_of("cpu"),
        "as_expected": not objections and violated == 0,
        "checks": [rate.row() for rate in rates],
        "attacks": attacks,
    }
    chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    rows_file.unlink()
    for rate in rates:
        kind = "valid" if rate.check.valid else "invalid"
        print(f"{rate.rate:.5f} of {rate.runs} at level {rate.check.level} ({kind}): {rate.check.name}")
    for row in attacks:
        print(f"{row['violated']} of {row['certificates']} broken: {row['setting']}")
    print("\n".join(objections) or "all rates are as they should be")
    return 1 if objections or violated else 0


def _command(chosen: argparse.Namespace) -> str:
    """The command that makes this result; the user's paths are left out of the record."""
    attacked = f" --data DATA --digits {chosen.digits}" if chosen.data else ""
    only = f" --only {chosen.only!r}" if chosen.only else ""
    return f"python -m benchmarks.validity --runs {chosen.runs} --seed {chosen.seed}{only}{attacked}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
