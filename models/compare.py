"""Certify the same images by the papers' procedure and by ours, and print the ratios."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np

from certification.vocabulary import Procedure

from .evaluate import Evaluation, add_common_arguments
from .report import comparison_table

PROCEDURES = ("paper", "sequential")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``surety compare``."""
    add_common_arguments(parser)
    parser.add_argument("--n", type=int, default=200, help="estimation draws of the papers' procedure")
    parser.add_argument("--n-delta", type=int, default=10_000, help="votes at each of these draws")
    parser.set_defaults(max_votes=100_000_000)


def run(arguments: argparse.Namespace) -> int:
    """``surety compare``: both procedures on one image, then the next."""
    work = Evaluation(arguments)
    plans = {
        "paper": replace(work.plan, procedure=Procedure.PAPER, n=arguments.n, n_delta=arguments.n_delta),
        "sequential": replace(work.plan, max_votes=min(arguments.max_votes, 2_000_000)),
    }

    def row_of(index: int) -> dict[str, Any]:
        image = work.image(index)
        found = {name: work.row(index, image, plan) for name, plan in plans.items()}
        return {"index": index, "truth": work.truth(index), **found}

    rows = work.collect(row_of, arguments.n, arguments.n_delta)
    summary = summarise(rows)
    work.write("compare", rows, summary, comparison_table(work.plan, summary))
    return 0


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians, and what the papers' procedure costs as a multiple of ours, image by image.

    A radius that was not certified counts as 0.
    """
    pairs = [(row["paper"], row["sequential"]) for row in rows]
    summary: dict[str, Any] = {"images": len(rows)}
    for what in ("votes", "seconds"):
        for name in PROCEDURES:
            summary[f"{name}_{what}"] = float(np.median([row[name][what] for row in rows]))
        summary[f"{what}_ratio"] = float(np.median([paper[what] / ours[what] for paper, ours in pairs]))
    larger = [(ours["radius"] or 0.0) >= (paper["radius"] or 0.0) for paper, ours in pairs]
    return summary | {"radius_at_least_as_large": float(np.mean(larger))}
