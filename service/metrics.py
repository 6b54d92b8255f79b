"""All metrics, one registry an app; every name begins with ``surety_``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from resource import getpagesize
from typing import Protocol

import torch
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from certification import __version__
from certification.outcome import Certified, Outcome, Prediction
from certification.plan import PredictPlan
from certification.vocabulary import StoppedBy
from models.registry import LoadedModel

from .engine import Engine
from .errors import ERROR_TABLE, HTTP_KINDS, INTERNAL

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
RADII = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 180.0)
ERROR_BOUNDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
RESIDENT_PAGES = 1
"""Field of /proc/self/statm."""


class Worker(Protocol):
    """A process that computes for this one."""

    @property
    def process_id(self) -> int | None:
        """None while there is none."""

    @property
    def device_memory(self) -> Mapping[str, int]:
        """Bytes of the device in use, by kind."""


class DeviceMemory(Collector):
    """Bytes in use: of the processes (cpu), read at each scrape, and of torch and the whole device (cuda).

    Attributes
    ----------
    worker : Worker or None
        Has the device, if it is not this process.
    """

    worker: Worker | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauge's samples now."""
        family = GaugeMetricFamily("surety_device_memory_bytes", "Memory in use.", labels=["device", "kind"])
        family.add_metric(["cpu", "resident"], resident("self"))
        if self.worker is not None:
            family.add_metric(["cpu", "worker_resident"], resident(self.worker.process_id))
            for kind, found in self.worker.device_memory.items():
                family.add_metric(["cuda", kind], found)
        elif torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            free, total = torch.cuda.mem_get_info()
            family.add_metric(["cuda", "torch_allocated"], torch.cuda.memory_allocated())
            family.add_metric(["cuda", "in_use"], total - free)
            family.add_metric(["cuda", "total"], total)
        yield family


def resident(process: int | str | None) -> int:
    """Bytes of memory that a process holds; 0 if there is none, or no /proc."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[RESIDENT_PAGES]) * getpagesize()
    except OSError:
        return 0


class Metrics:
    """Everything that ``GET /metrics`` shows."""

    def __init__(self, engine: Engine) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Answered requests.", "route", "method", "status")
        self.problems = self._counter("problems", "Refused or failed requests by problem type.", "type")
        # Here and below: from 0 on, so that a first one is an increase.
        for kind in (*ERROR_TABLE.values(), *HTTP_KINDS.values(), INTERNAL):
            self.problems.labels(kind.label)
        self.request_seconds = self._histogram("request_seconds", "From the first byte to the last.", SECONDS, "route")
        self.outcomes = self._counter(
            "outcomes", "Answers by guarantee.", "request", "transformation", "guarantee", "outcome"
        )
        self.stage_seconds = self._histogram("stage_seconds", "Time in a stage of an answer.", SECONDS, "stage")
        self.votes = self._counter("votes", "Base-classifier evaluations.", "model")
        self.key_votes = self._counter("key_votes", "Base-classifier evaluations charged to an API key.", "key")
        self.records = self._counter("records", "Certificates that were stored, or could not be.", "result")
        for result in ("stored", "failed"):
            self.records.labels(result)
        self.jobs = self._gauge("jobs", "Jobs in the database, of all servers.", "status")
        self.job_items_waiting = self._gauge("job_items_waiting", "Images of jobs that wait, of all servers.")
        self.job_items = self._counter("job_items", "Images of jobs that this server is through with.", "status")
        for status in ("done", "failed"):
            self.job_items.labels(status)
        self.radius = self._histogram(
            "radius", "Certified radii in the unit.", RADII, "transformation", "guarantee", "unit"
        )
        self.error_bound = self._histogram(
            "error_bound", "Error bounds E used (l2, intensity).", ERROR_BOUNDS, "transformation", "guarantee"
        )
        self.in_flight = self._gauge("requests_in_flight", "Requests that are not answered yet.")
        self.runs = self._counter("runs", "Finished runs by why they ended; done: fixed numbers.", "stopped_by")
        for reason in (*StoppedBy, "done"):
            self.runs.labels(reason)
        self.queue_wait = self._histogram("queue_wait_seconds", "Admitted requests' wait for a thread.", SECONDS)
        self.busy_seconds = self._counter("busy_seconds", "Seconds that threads computed, all together.")
        self._threads = self._gauge("threads", "Threads that compute.")
        self._threads.set(engine.max_running)
        engine.on_done = self._observe_thread
        self._gauge("queue_seconds", "Estimated wait of a long request.").set_function(lambda: engine.queue_seconds)
        self._gauge("queue_depth", "Admitted requests that wait for a thread.").set_function(lambda: engine.waiting)
        self._gauge("running", "Requests that are computed.").set_function(lambda: engine.running)
        self.ready = self._gauge("ready", "1 once models are loaded and kernels compiled.")
        self.models = self._gauge("model_info", "1 for each loaded model.", "model", "digest", "transformation")
        self._gauge("build_info", "1, with the version.", "version").labels(__version__).set(1)
        self.worker_deaths = self._counter("worker_deaths", "Ends of the worker process by cause.", "cause")
        for cause in ("crash", "device"):
            self.worker_deaths.labels(cause)
        self.device_memory = DeviceMemory()
        self.registry.register(self.device_memory)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"surety_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"surety_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"surety_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _observe_thread(self, waited: float, computed: float) -> None:
        self.queue_wait.observe(waited)
        self.busy_seconds.inc(computed)

    def observe_jobs(self, engine: Engine) -> None:
        """Count the threads of another engine, and what they compute; nobody waits for those."""
        self._threads.inc(engine.max_running)
        engine.on_done = lambda _, computed: self.busy_seconds.inc(computed)

    def observe_model(self, model: LoadedModel) -> None:
        """Name a model that is served."""
        self.models.labels(model.card.id, model.digest, model.card.noise.transformation).set(1)

    def observe_certificate(self, outcome: Outcome) -> None:
        """Count a certificate or an abstention."""
        plan = outcome.plan
        kind = (str(plan.transformation), str(plan.guarantee))
        certified = isinstance(outcome, Certified)
        self.outcomes.labels("certify", *kind, "certified" if certified else "abstained").inc()
        if isinstance(outcome, Certified):
            self.radius.labels(*kind, plan.transformation.unit).observe(outcome.radius)
        if outcome.error_bound is not None and math.isfinite(outcome.error_bound.error_bound):
            self.error_bound.labels(*kind).observe(outcome.error_bound.error_bound)

    def observe_prediction(self, plan: PredictPlan, prediction: Prediction) -> None:
        """Count a label or an abstention."""
        outcome = "abstained" if prediction.label is None else "predicted"
        self.outcomes.labels("predict", str(plan.transformation), str(plan.guarantee), outcome).inc()

    def observe_work(self, model_id: str, votes: int, seconds: Mapping[str, float]) -> None:
        """Count votes, and the seconds of the stages that happened."""
        self.votes.labels(model_id).inc(votes)
        for stage, spent in seconds.items():
            if spent > 0.0:
                self.stage_seconds.labels(stage).observe(spent)

    def exposition(self) -> tuple[bytes, str]:
        """The text that Prometheus scrapes, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
