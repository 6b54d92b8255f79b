"""The sentences: they name the label, the radius and whom it holds for, and no number is rounded up."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certification.outcome import Abstained, Certified, Counts
from certification.plan import CertificationPlan
from certification.statement import rounded_down
from certification.vocabulary import Guarantee, ImageIs
from tests.certification.sources import l2_plan, rotation_plan, translation_plan

COUNTS = Counts(100, 200, 200, 100, 20_100)


def sentence(plan: CertificationPlan, radius: float = 1.0) -> str:
    return Certified(plan, 7, radius, 0.97, COUNTS).statement


@given(st.floats(1e-9, 1e9), st.integers(1, 17))
def test_numbers_are_never_rounded_up(value: float, digits: int) -> None:
    shown = Fraction(rounded_down(value, digits))
    assert shown <= Fraction(repr(value))
    assert shown >= Fraction(repr(value)) * (1 - Fraction(10) ** (1 - digits))


@pytest.mark.parametrize("guarantee", list(Guarantee))
@pytest.mark.parametrize("image_is", list(ImageIs))
def test_every_certificate_names_label_radius_and_unit(guarantee: Guarantee, image_is: ImageIs) -> None:
    text = sentence(rotation_plan(guarantee, image_is=image_is), 7.65439)
    verb = "would answer" if guarantee == "heuristic" else "answers"
    for part in (f"{verb} 7", "at most 7.654 degrees", "+-10.0 degrees"):
        assert part in text
    assert text.endswith("It does not say that the label is right.")
    assert "ith probability at least 0.99 over the noise" in text
    assert ("No proof" in text) == (guarantee == "heuristic")
    assert ("share of at least 0.99 of images like those of MNIST" in text) == (guarantee == "distributional")


def test_whose_image_it_is_is_said() -> None:
    received = sentence(rotation_plan(image_is=ImageIs.RECEIVED))
    reference = sentence(rotation_plan(image_is=ImageIs.REFERENCE))
    assert "every image from which this one can have been made by" in received
    assert "every version of this image made by" in reference


def test_a_covered_attack_range_is_said_as_such() -> None:
    """A square of shifts is covered from its corner on, not from its half-width."""
    plan = translation_plan()
    covering = sentence(plan, plan.wanted_radius)
    assert "any translation in the attack range of +-1.0 pixels on each axis" in covering
    partly = sentence(plan, 1.2)
    assert "a translation of at most 1.2 pixels in the attack range of +-1.0 pixels on each axis" in partly
    assert Certified(plan, 7, plan.wanted_radius, 0.97, COUNTS).covers_attack_range
    assert not Certified(plan, 7, 1.4142, 0.97, COUNTS).covers_attack_range


def test_an_l2_certificate_is_about_a_ball() -> None:
    assert "every image whose l2 distance from this one is at most 0.1234" in sentence(l2_plan(), 0.12349)


def test_the_probability_is_not_rounded_up() -> None:
    plan = replace(rotation_plan(Guarantee.HEURISTIC), guarantee=Guarantee.INDIVIDUAL, alpha=1e-9, n=1000)
    assert "at least 0.999999999 over" in sentence(plan)
    assert "at least 0.9 over" in sentence(replace(plan, alpha=0.1))


def test_an_abstention_says_why() -> None:
    outcome = Abstained(rotation_plan(), "no class got a vote", COUNTS)
    assert outcome.statement == "No statement: no class got a vote."
    assert outcome.alpha_shares == rotation_plan().alpha_shares
