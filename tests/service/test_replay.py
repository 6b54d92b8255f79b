"""A run whose time was up, at any point of it, gives a certificate that can be made again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from certification.vocabulary import OutOfTime
from service.certifier import Certifier
from service.engine import Cancellation
from service.schemas import CertifyFields
from service.signing import Signed
from service.verification import Verification

from .conftest import Running, Start
from .pictures import SIDE, encode

HEURISTIC = {"guarantee": "heuristic", "n0": 20, "n": 400, "attack_range": 20}
PAPER = {**HEURISTIC, "procedure": "paper", "n": 100}
ONE_BOUND_A_DRAW = {"guarantee": "individual", "n0": 20, "attack_range": 4, "procedure": "sequential"}
OF_A_KNOWN_IMAGE = {**ONE_BOUND_A_DRAW, "image_is": "reference"}
ESTIMATED = {"guarantee": "individual", "n0": 20, "n": 40, "n_error": 30, "attack_range": 4, "estimator": "joint"}


class Looks(Cancellation):
    """Whose time is up at a certain look."""

    def __init__(self, most: float = float("inf")) -> None:
        super().__init__()
        self.most, self.looks = most, 0

    def check(self) -> None:
        self.looks += 1
        if self.looks > self.most:
            raise OutOfTime


@pytest.fixture(scope="module")
def small_batches(start: Start) -> Iterator[Running]:
    with start(batch_size=8) as running:
        yield running


def picture() -> bytes:
    """Half of it is content, none of it near the border."""
    image = np.zeros((SIDE, SIDE), dtype=np.uint8)
    image[4:8, 4:9] = 90
    return encode(image, "PNG")


@pytest.mark.parametrize(
    "fields", [HEURISTIC, PAPER, ONE_BOUND_A_DRAW, OF_A_KNOWN_IMAGE, ESTIMATED],
    ids=["heuristic", "paper", "own bounds", "known image", "estimated"],
)  # fmt: skip
def test_a_run_that_is_cut_anywhere_can_be_made_again(small_batches: Running, fields: dict[str, Any]) -> None:
    services = small_batches.services
    certifier: Certifier = services.lifecycle.certifier
    chosen = CertifyFields(**fields)
    whole = Looks()
    certifier.certify(certifier.prepare_certify(chosen, picture()), whole)
    ends = set()
    for most in sorted({*range(min(whole.looks, 12)), *np.linspace(0, whole.looks, 25).astype(int).tolist()}):
        task, reply = certifier.certify(certifier.prepare_certify(chosen, picture()), Looks(most))
        ends.add((reply.stopped_by, reply.counts.votes))
        json.loads(reply.model_dump_json())  # no number that JSON has not
        signed = Signed.from_text(services.records.sign(task, reply, certifier.machine).signed)
        verification = Verification(signed, certifier, None)
        again = verification.replay(verification.prepare(picture()), Cancellation())
        assert again.verified, (most, again.reason, again.differences)
    assert len(ends) > 3


def test_sizes_of_batches_that_memory_has_changed_are_a_difference(small_batches: Running) -> None:
    """What a vote may then depend on is said beside."""
    services = small_batches.services
    certifier: Certifier = services.lifecycle.certifier
    task, reply = certifier.certify(certifier.prepare_certify(CertifyFields(**HEURISTIC), picture()), Cancellation())
    signed = Signed.from_text(services.records.sign(task, reply, certifier.machine).signed)
    verification = Verification(signed, certifier, None)
    again = verification.prepare(picture())
    assert verification.replay(again, Cancellation()).runtime_differences == []
    halved = again.replay.halved()
    assert halved is not None
    found = verification.replay(replace(again, replay=halved), Cancellation())
    assert {one.field for one in found.runtime_differences} >= {"runtime.batch_size"}
