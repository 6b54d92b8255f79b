"""Jobs: what is accepted, what comes of it, and what a second request with the same key gets."""

from __future__ import annotations

from .conftest import Running
from .job_tools import CHANCY, events, finished, look, pictures, send, submit


def test_a_job_gives_each_image_the_answer_that_certify_gives(server: Running) -> None:
    """Oracle: /v1/certify on the same server, whose noise is the same for the same request."""
    images = pictures(3)
    response = send(server.client, images, **CHANCY)
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert [one["item"] for one in job["items"]] == [0, 1, 2]
    job = finished(server.client, job["id"])
    assert job["status"] == "done"
    for image, item in zip(images, job["items"], strict=True):
        assert (item["status"], item["problem"]) == ("done", None)
        answer, reply = server.certify(image, **CHANCY).json(), item["reply"]
        stored = server.client.get(f"/v1/certificates/{reply['certificate_id']}").json()["certificate"]
        for one in (answer, reply, stored["reply"]):
            one.pop("certificate_id", None)
            one.pop("seconds")
        assert reply == answer == stored["reply"]


def test_events(server: Running) -> None:
    identifier = submit(server.client, pictures(2))
    told = events(server.client, identifier)
    assert [one.kind for one in told if one.kind != "progress"] == [
        "queued",
        "stage",
        "stage",
        "item",
        "stage",
        "stage",
        "item",
        "done",
    ]
    assert look(server.client, identifier)["last_event_id"] == told[-1].number
