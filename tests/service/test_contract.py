"""What the answers hold, in both encodings, and that the documentation's examples work."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from certification import __version__

from .conftest import CLASSES, SIGMA_DELTA, Running, Start
from .pictures import SIDE, colour, encode, grey

PREDICT = {
    "label", "class_name", "abstained", "reason", "transformation", "guarantee", "alpha", "counts",
    "procedure", "estimator", "stopped_by", "sigma_gamma", "sigma_delta", "model", "model_digest", "version", "seconds",
}  # fmt: skip
CERTIFY = PREDICT | {
    "required", "radius", "radius_unit", "attack_range", "wanted_radius", "covers_attack_range", "image_is",
    "statement", "alpha_shares", "p_lower", "error_bound", "certificate_id",
}  # fmt: skip
BLACK = np.zeros((SIDE, SIDE), dtype=np.uint8)


def answer(server: Running, **fields: Any) -> dict[str, Any]:
    response = server.certify(**fields)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    assert set(reply) == CERTIFY
    assert set(reply["counts"]) == {"selection", "n", "passed", "n_delta", "votes"}
    assert set(reply["seconds"]) == {"decode", "inverse", "bound", "select", "estimate", "total"}
    assert reply["version"] == __version__
    assert len(reply["model_digest"]) == 64
    return reply


def test_defaults(server: Running) -> None:
    reply = answer(server)
    assert reply["model"] == "constant-rotation"
    assert (reply["transformation"], reply["guarantee"], reply["image_is"]) == (
        "rotation",
        "distributional",
        "received",
    )
    assert (reply["alpha"], reply["attack_range"], reply["radius_unit"]) == (0.01, 30.0, "degrees")
    assert (reply["procedure"], reply["stopped_by"], reply["wanted_radius"]) == ("sequential", "certified", 30.0)
    assert reply["estimator"] in ("nested", "joint")
    assert reply["counts"]["selection"] == 100
    assert reply["counts"]["votes"] < 5000


@pytest.mark.parametrize("estimator", ["nested", "joint"])
def test_the_estimator_that_is_asked_for_answers_and_the_statement_says_so(server: Running, estimator: str) -> None:
    reply = answer(server, guarantee="distributional", attack_range=20, estimator=estimator)
    assert (reply["estimator"], reply["covers_attack_range"]) == (estimator, True)
    assert ("joint smoothed classifier" in reply["statement"]) == (estimator == "joint")
    assert ("alpha_delta" in reply["alpha_shares"]) == (estimator == "nested")
    assert (reply["counts"]["n_delta"] > 1) == (estimator == "nested")


def test_a_smaller_wanted_radius_is_cheaper_and_must_lie_in_the_attack_range(server: Running) -> None:
    asked = {"guarantee": "distributional", "attack_range": 30, "estimator": "nested"}
    whole, part = answer(server, **asked), answer(server, **asked, wanted_radius=10)
    assert part["wanted_radius"] == 10
    assert part["radius"] >= 10
    assert part["counts"]["votes"] < whole["counts"]["votes"]
    response = server.certify(**asked, wanted_radius=31)
    assert (response.status_code, response.json()["field"]) == (422, "wanted_radius")


def test_heuristic_certificate(server: Running) -> None:
    """Every draw agrees, so p_lower = alpha^(1/n) (Clopper and Pearson for n of n)."""
    reply = answer(server, guarantee="heuristic", n=200, n0=50, alpha=0.001, attack_range=30, procedure="paper")
    assert (reply["label"], reply["class_name"], reply["abstained"], reply["reason"]) == (
        1,
        CLASSES[1],
        False,
        None,
    )
    assert math.isclose(reply["p_lower"], 0.001 ** (1 / 200), rel_tol=1e-6)
    assert reply["counts"] == {"selection": 50, "n": 200, "passed": 200, "n_delta": 1, "votes": 250}
    assert (reply["radius"], reply["covers_attack_range"]) == (30.0, True)
    assert reply["alpha_shares"] == {"alpha_gamma": 0.001}
    assert (reply["sigma_gamma"], reply["sigma_delta"], reply["error_bound"]) == (30.0, 0.0, None)
    assert reply["statement"].startswith("No proof")


def test_distributional_certificate(server: Running) -> None:
    reply = answer(server, guarantee="distributional", attack_range=20, n_delta=50, procedure="paper")
    assert (reply["radius"], reply["covers_attack_range"]) == (20.0, True)
    assert reply["error_bound"]["error_bound"] == 0.2
    assert (reply["error_bound"]["q_E"], reply["error_bound"]["confidence"]) == (0.99, 0.999)
    assert reply["counts"]["votes"] == 100 + 200 * 50
    assert (reply["sigma_gamma"], reply["sigma_delta"]) == (30.0, SIGMA_DELTA)
    assert "at least 0.99" in reply["statement"]
    assert "made up (train)" in reply["statement"]


@pytest.mark.parametrize("image_is", ["received", "reference"])
def test_individual_certificate(server: Running, image_is: str) -> None:
    more = {"n_error": 200, "procedure": "paper"}
    reply = answer(server, guarantee="individual", attack_range=12, image_is=image_is, **more)
    assert reply["image_is"] == image_is
    shares = reply["alpha_shares"]
    assert math.isclose(shares["alpha_gamma"] + shares["alpha_E"], reply["alpha"])
    assert reply["error_bound"]["smallest"] <= reply["error_bound"]["median"] <= reply["error_bound"]["largest"]
    assert reply["seconds"]["bound"] > 0
    assert (reply["seconds"]["inverse"] > 0) == (image_is == "received")
    assert reply["label"] == 1
    assert 0 < reply["radius"] <= 12


@pytest.mark.parametrize("image_is", ["received", "reference"])
def test_individual_certificate_with_a_bound_for_each_draw(server: Running, image_is: str) -> None:
    """B.3: neither a common E nor rho_E, and all of alpha for the outer test."""
    reply = answer(server, guarantee="individual", attack_range=12, image_is=image_is)
    assert (reply["label"], reply["estimator"], reply["covers_attack_range"]) == (1, "nested", True)
    bound = reply["error_bound"]
    assert (bound["per_draw"], bound["rho_E"]) == (True, 0.0)
    assert bound["smallest"] <= bound["median"] == bound["error_bound"] <= bound["largest"]
    assert bound["draws"] >= reply["counts"]["n"]
    assert reply["alpha_shares"] == {"alpha_gamma": 0.01, "alpha_delta": 0.002}
    assert reply["seconds"]["bound"] > 0


def test_translation_certificate(server: Running) -> None:
    """A square's corner is sqrt(2) half-widths away."""
    reply = answer(server, transformation="translation", attack_range=1.0, guarantee="heuristic")
    assert (reply["model"], reply["radius_unit"], reply["attack_range"]) == (
        "constant-translation",
        "pixels",
        1.0,
    )
    assert math.isclose(reply["radius"], math.sqrt(2))
    assert reply["covers_attack_range"]


def test_l2_certificate(server: Running) -> None:
    """Cohen et al. 2019, Theorem 1: sigma Phi^-1(p_lower), less what the lattice takes; not cut at the attack range."""
    reply = answer(server, transformation="l2", n=500, attack_range=0.1, procedure="paper")
    assert (reply["guarantee"], reply["radius_unit"]) == ("individual", "intensity")
    exact = SIGMA_DELTA * norm.ppf(0.01 ** (1 / 500))
    assert exact - 1.1 * SIDE / 65535 < reply["radius"] < exact - SIDE / 65535
    assert (reply["sigma_gamma"], reply["sigma_delta"]) == (0.0, SIGMA_DELTA)


def test_abstention_is_an_answer(server: Running) -> None:
    """At even odds a certificate at this alpha has probability 1e-6."""
    for more in ({"guarantee": "distributional"}, {"transformation": "l2", "attack_range": 0.01}):
        reply = answer(server, image=encode(BLACK, "PNG"), model="undecided", alpha=1e-6, n=400, **more)
        assert reply["abstained"] is True
        assert (reply["label"], reply["class_name"], reply["radius"]) == (None, None, None)
        assert reply["covers_attack_range"] is False
        assert reply["reason"] in reply["statement"]


def test_an_error_bound_that_asks_for_more_votes_is_an_abstention(server: Running) -> None:
    """Nine votes can pass at an error of 0 only; the bound is known with the image, so this is no refusal."""
    reply = answer(server, guarantee="individual", attack_range=5, n_delta=9, procedure="paper")
    assert reply["abstained"] is True
    assert reply["counts"]["votes"] == 0
    assert reply["required"]["n_delta"] > 9


def test_resizing_is_said(server: Running) -> None:
    reply = answer(server, model="rgb", guarantee="heuristic", image=encode(colour(30, 20), "PNG"))
    assert "30 x 20" in reply["statement"]
    assert "resizing" not in answer(server, model="rgb", guarantee="heuristic")["statement"]


def test_json_gives_the_same_answer_as_multipart(server: Running) -> None:
    text = base64.b64encode(encode(grey(), "PNG")).decode()
    fields = {"guarantee": "heuristic", "n": 300, "alpha": 0.005, "attack_range": 12, "model": None}
    wrapped = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    answers = [answer(server, **{name: value for name, value in fields.items() if value is not None})]
    for image in (text, wrapped, f"data:image/png;base64,{text}"):
        response = server.client.post("/v1/certify", json={"image": image, **fields})
        assert response.status_code == 200, response.text
        answers.append(response.json())
    for reply in answers:
        del reply["seconds"], reply["certificate_id"]
        assert reply == answers[0]


def test_predict(server: Running) -> None:
    for fields, votes in (
        ({"procedure": "paper"}, 100 + 200 * 100),
        ({"guarantee": "heuristic", "procedure": "paper"}, 1000),
        ({"transformation": "l2", "n": 80}, 80),
    ):
        reply = server.predict(**fields).json()
        assert set(reply) == PREDICT
        assert (reply["label"], reply["class_name"], reply["abstained"], reply["alpha"]) == (
            1,
            "one",
            False,
            0.01,
        )
        assert reply["counts"]["votes"] == votes
    assert server.predict(model="undecided", transformation="l2", n=20).json()["abstained"] is True


def test_predict_has_no_attack_range(server: Running) -> None:
    assert server.predict(attack_range=3).status_code == 422


def test_models(server: Running) -> None:
    models = {model["id"]: model for model in server.client.get("/v1/models").json()["models"]}
    assert set(models) == {"constant-rotation", "constant-translation", "rgb", "undecided"}
    one = models["constant-translation"]
    assert (one["transformation"], one["unit"], one["sigma_gamma"]) == ("translation", "pixels", 2.0)
    assert one["input"] == {"height": SIDE, "width": SIDE, "channels": 1, "resize_uploads": False}
    assert (one["classes"], one["calibrated_attack_ranges"]) == (list(CLASSES), [2.0])
    assert server.client.get("/v1/models/constant-translation").json() == one


def test_bounds(server: Running) -> None:
    every = server.client.get("/v1/bounds").json()["bounds"]
    assert [bound["model"] for bound in every] == ["constant-rotation", "constant-translation", "undecided"]
    (bound,) = server.client.get("/v1/bounds", params={"transformation": "translation"}).json()["bounds"]
    expected = {
        "error_bound": 0.2,
        "rho_E": 0.001,
        "q_E": 0.99,
        "confidence": 0.999,
        "attack_range": 2.0,
        "unit": "pixels",
    }
    assert expected.items() <= bound.items()
    assert bound["dataset"] == "made up"
    assert server.client.get("/v1/bounds", params={"model": "rgb"}).json() == {"bounds": []}


def test_the_noise_belongs_to_the_request(server: Running) -> None:
    """Sent again the answer is the same, so that nobody can try until it passes; other settings get other noise."""

    def passed(**more: Any) -> int:
        reply = answer(server, model="undecided", transformation="l2", procedure="paper", **more)
        return int(reply["counts"]["passed"])

    assert len({passed() for _ in range(3)}) == 1
    assert len({passed(alpha=0.01 + 0.001 * k) for k in range(5)}) > 1


def test_two_servers_have_different_noise(start: Start) -> None:
    """The key's secret is drawn at start-up; at even odds, equal counts in 1000 votes have probability .02."""
    found = []
    for _ in range(3):
        with start(noise_secret=None) as server:
            reply = answer(server, model="undecided", transformation="l2", procedure="paper")
            found.append(reply["counts"]["passed"])
    assert len(set(found)) > 1


def test_request_ids(server: Running) -> None:
    get = server.client.get
    assert get("/health/live").headers["x-request-id"] != get("/health/live").headers["x-request-id"]
    assert get("/health/live", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert get("/health/live", headers={"x-request-id": "a b\tc"}).headers["x-request-id"] != "a b\tc"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/v1/models", "/v1/bounds", "/docs"])
def test_head_and_options(server: Running, path: str) -> None:
    head = server.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    options = server.client.options(path)
    assert options.status_code == 204
    assert {"GET", "HEAD", "OPTIONS"} == set(options.headers["allow"].split(", "))


def test_metrics_name_what_happened(server: Running) -> None:
    answer(server, guarantee="individual", attack_range=12, n_error=200)
    text = server.client.get("/metrics").text
    for sample in (
        'surety_outcomes_total{guarantee="individual",outcome="certified",request="certify",transformation="rotation"}',
        'surety_requests_total{method="POST",route="/v1/certify",status="200"}',
        'surety_votes_total{model="constant-rotation"}',
        'surety_radius_count{guarantee="individual",transformation="rotation",unit="degrees"}',
        'surety_error_bound_count{guarantee="individual",transformation="rotation"}',
        'surety_model_info{digest="',
        'surety_device_memory_bytes{device="cpu",kind="resident"}',
        f'surety_build_info{{version="{__version__}"}} 1.0',
        "surety_queue_depth 0.0",
        "surety_running 0.0",
        "surety_requests_in_flight 1.0",
        "surety_ready 1.0",
        *(
            f'surety_stage_seconds_count{{stage="{stage}"}}'
            for stage in ("decode", "inverse", "bound", "select", "estimate")
        ),
    ):
        assert sample in text, sample
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert all(name.startswith("surety_") for name in names)


def test_openapi_documents_every_status_as_a_problem(server: Running) -> None:
    document = server.client.get("/openapi.json").json()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path in ("/v1/certify", "/v1/predict"):
        operation = document["paths"][path]["post"]
        assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
        assert {"400", "413", "415", "422", "429", "503"} <= set(operation["responses"])
        for status, response in operation["responses"].items():
            if status != "200":
                schema = response["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}
    assert {"type", "title", "status", "detail", "instance"} <= set(
        document["components"]["schemas"]["Problem"]["properties"]
    )


def test_openapi_examples_are_accepted(start: Start, mnist_zoo: Any) -> None:
    """The examples are digits of 28 x 28 pixels; here any zoo of that size stands for the shipped one."""
    with start(zoo=mnist_zoo) as server:
        document = server.client.get("/openapi.json").json()
        for path in ("/v1/certify", "/v1/predict"):
            examples = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
            assert examples
            for example in examples.values():
                response = server.client.post(path, json=example["value"])
                assert response.status_code == 200, (example, response.text)


def test_the_default_guarantee_is_distributional_where_that_is_calibrated(server: Running) -> None:
    assert answer(server, attack_range=30)["guarantee"] == "distributional"
    assert answer(server, model="rgb", attack_range=1)["guarantee"] == "individual"
    assert answer(server, transformation="l2")["guarantee"] == "individual"
