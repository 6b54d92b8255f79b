"""Tables and plots of evaluations, beside the papers' corrected figures (docs/guarantees.md, A.3)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from certification.plan import CertificationPlan
from certification.vocabulary import Guarantee, Transformation

Rows = Sequence[dict[str, Any]]
PAPER_POINTS = {
    (Guarantee.DISTRIBUTIONAL, Transformation.ROTATION, 30.0): ((0.0, 0.89), (30.0, 0.85)),
    (Guarantee.INDIVIDUAL, Transformation.ROTATION, 10.0): ((0.0, 0.82), (10.0, 0.82 * 0.81)),
}
"""Radius and certified accuracy, from the authors' slides of 2021; individual: right, and of these certified."""


def evaluation_table(plan: CertificationPlan, summary: dict[str, Any], attack: int) -> str:
    """A summary in Markdown."""
    unit, kind = plan.transformation.unit, f"worst-of-{attack} attacked" if attack else "clean"
    rows = [
        ("images", f"{summary['images']}, {kind}"),
        ("guarantee", f"{plan.guarantee}, image is {plan.image_is}, {plan.procedure}"),
        ("attack range", f"+-{plan.attack_range.half_width:g} {unit}"),
        ("predicted right", f"{summary['right']:.3f}"),
        *(
            (f"certified right, radius >= {radius} {unit}", f"{share:.3f}")
            for radius, share in summary["certified_accuracy"].items()
        ),
        ("right and covering the attack range", f"{summary['right_and_covering']:.3f}"),
        ("covering, of those right", f"{summary['covering_of_right']:.3f}"),
        ("votes, median", f"{summary['median_votes']:,.0f}"),
        ("seconds, median", f"{summary['median_seconds']:.2f}"),
        ("error bound, median", f"{summary['median_error_bound']:.4f}"),
    ]
    rows += [(f"the papers, corrected, at {radius:g} {unit}", f"{share:.3f}") for radius, share in paper_points(plan)]
    return markdown(("", ""), rows)


def comparison_table(plan: CertificationPlan, summary: dict[str, Any]) -> str:
    """A comparison in Markdown."""
    return markdown(
        (f"{plan.guarantee}, median of {summary['images']}", "papers", "sequential", "ratio"),
        [
            (
                what,
                f"{summary[f'paper_{what}']:,.1f}",
                f"{summary[f'sequential_{what}']:,.1f}",
                f"{summary[f'{what}_ratio']:,.1f}",
            )
            for what in ("votes", "seconds")
        ]
        + [("radius at least as large", "", f"{summary['radius_at_least_as_large']:.3f}", "")],
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def paper_points(plan: CertificationPlan) -> tuple[tuple[float, float], ...]:
    """Radius and certified accuracy of the papers for this task; empty where there are none."""
    return PAPER_POINTS.get((plan.guarantee, plan.transformation, plan.attack_range.half_width), ())


def plot_evaluation(rows: Rows, plan: CertificationPlan, attack: int, out: Path) -> None:
    """Three plots in one PNG beside ``out``: certified accuracy, error bounds, and votes and seconds.

    Needs matplotlib (the extra ``evaluate``); without it a line says so and nothing is drawn.
    """
    if importlib.util.find_spec("matplotlib") is None:
        print("no plots: matplotlib is not installed (the extra 'evaluate')", file=sys.stderr)
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    unit = plan.transformation.unit
    figure, (accuracy, bounds, cost) = pyplot.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    radii = [row["radius"] for row in rows if row["label"] is not None and row["label"] == row["truth"]]
    grid = np.linspace(0.0, plan.full_radius, 200)
    accuracy.plot(grid, [sum(radius >= r for radius in radii) / len(rows) for r in grid], label=str(plan.procedure))
    if points := paper_points(plan):
        accuracy.plot(*zip(*points, strict=True), "kx", label="papers, corrected", clip_on=False)
    accuracy.set(xlabel=f"radius [{unit}]", ylabel="certified accuracy", ylim=(0.0, 1.02))
    accuracy.set_title(f"{plan.guarantee}, {'attacked' if attack else 'clean'}")
    accuracy.legend(loc="lower left")
    found = [row["error_bound"] / plan.sigma_delta for row in rows if row["error_bound"] is not None]
    bounds.hist(found or [0.0], bins=30)
    bounds.set(xlabel="error bound / sigma_delta", ylabel="images", title="interpolation error")
    cost.loglog([max(row["votes"], 1) for row in rows], [max(row["seconds"], 1e-3) for row in rows], "o", ms=3)
    cost.set(xlabel="votes", ylabel="seconds", title="cost of a certificate")
    figure.savefig(out.with_suffix(".png"), dpi=110)
    pyplot.close(figure)
