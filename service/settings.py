"""Everything the environment may change: one ``SURETY_...`` variable a field, read once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

SHIPPED_ZOO = Path(__file__).resolve().parent.parent / "models" / "zoo"
MIB = 2**20


class SettingsError(Exception):
    """The server cannot start as its settings say."""


class Settings(BaseSettings):
    """How one server runs; ``SURETY_MAX_RUNNING=4`` sets ``max_running``.

    Fields
    ------
    host, port
        Where to listen; port 0 lets the system choose.
    keys_file
        API keys, made by ``surety keys new``; every request but those for health then needs one.
    allow_public_without_keys
        Serve on an address that is not loopback though there are no keys.
    metrics_open
        ``/metrics`` needs no key.
    zoo
        Directory with one subdirectory a model (``card.toml``, weights, ``bounds/``).
    device
        ``auto`` takes CUDA where there is one.
    head_seconds
        Longest time that a request's head may take, counted from the connection or, after an answer, its first byte.
    keep_alive_seconds
        How long a connection may be idle after an answer: longer than a proxy before the server keeps its own, which
        would otherwise send requests into connections that are just being closed.
    log_level, log_format
        What is logged, and whether as lines for people or as JSON.
    otel_endpoint
        URL that takes OTLP traces over HTTP (``http://collector:4318/v1/traces``); needs the extra ``otel``.
    max_body_bytes, body_seconds
        Largest request body and the longest time its transfer may take, and that of an answer, or of each part of one.
    max_held_bytes
        Of the bodies of all requests that are not answered yet, admitted or not; more get 429. One body always fits.
    max_image_pixels
        Largest height * width of an uploaded image, before any resizing.
    max_infer_images
        Images in one inference request (``/v2``); they are computed one after another, as one request.
    worker
        Where runs are made: in a ``process`` of their own, whose crash does not take the server down, or on a
        ``thread`` of the server, which needs less memory.
    max_running
        Requests computed at once; where it is not 1, up to three times as many while short ones turn out to be long.
    max_queue_seconds
        A request that would wait longer for its turn, by estimate, gets 429.
    short_seconds, patience_seconds
        Requests that are expected to take at most the first pass the longer ones, until one of those has waited for
        the second.
    noise_secret
        What the noise of every request follows from, unforeseeable and at least 32 characters (``openssl rand -hex
        32``); servers behind one address need the same. None: drawn at every start.
    ray_orders
        Requests that an HTTP edge on Ray has at the vote engines at once; there ``max_running`` is a vote engine's.
    max_votes
        Base-classifier evaluations one request may ask for.
    batch_size
        Images in one forward pass of a base classifier; by default what suits the device.
    default_deadline_ms, max_deadline_ms
        After how long a request that names no ``deadline_ms`` is answered with what was shown until then, and the most
        that it may name.
    bound_chunk_bytes
        Scratch memory of one kernel launch.
    drain_seconds
        How long running work may go on after SIGTERM.
    records
        Whether every certificate is stored: ``required`` (a certificate that cannot be stored is refused, 503),
        ``optional`` (it is given out without an id) or ``off``.
    data_dir
        Directory of the signing key and of the SQLite database; None: ``surety`` in ``XDG_STATE_HOME``.
    database_url
        ``postgresql://...`` or ``sqlite:////...``; None: SQLite in ``data_dir``.
    signing_key
        File of the Ed25519 key that signs, PEM; None: one in ``data_dir``, made at the first start.
    store_images
        Whether uploads are stored beside their certificates.
    records_max_days, records_max_count
        Age, and number, beyond which the oldest certificates are deleted; None: kept.
    records_deletion
        Whether whoever knows a certificate's id may delete it.
    job_slots
        Images of jobs computed at once, beside ``max_running`` requests; 0 leaves them to other servers.
    max_job_images, max_unfinished_jobs
        Images in one job, and jobs of one key (or of all, without keys) that may be unfinished; a further one gets 429.
    job_lease_seconds
        After how long without a sign of life another server takes over what a server had begun.
    jobs_max_days
        Days after which a finished job is deleted (its certificates are not), and an unfinished one cancelled whose key
        is not valid; None: kept.
    """

    model_config = SettingsConfigDict(env_prefix="SURETY_", env_parse_none_str="none", extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    zoo: Path = SHIPPED_ZOO
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    otel_endpoint: str | None = None

    keys_file: Path | None = None
    allow_public_without_keys: bool = False
    metrics_open: bool = False

    head_seconds: float = Field(default=10.0, gt=0, le=3600)
    keep_alive_seconds: int = Field(default=75, ge=1, le=3600)
    max_body_bytes: int = Field(default=12 * MIB, ge=1024)
    body_seconds: float = Field(default=30.0, gt=0, le=3600)
    max_held_bytes: int = Field(default=768 * MIB, ge=1024)
    max_image_pixels: int = Field(default=16 * MIB, ge=1)

    max_infer_images: int = Field(default=16, ge=1, le=1024)
    worker: Literal["process", "thread"] = "process"
    max_running: int = Field(default=2, ge=1, le=256)
    max_queue_seconds: float = Field(default=60.0, ge=0)
    short_seconds: float = Field(default=0.25, ge=0)
    patience_seconds: float = Field(default=10.0, ge=0)
    noise_secret: SecretStr | None = None
    ray_orders: int = Field(default=32, ge=1, le=256)
    max_votes: int = Field(default=4_000_000, ge=1, le=1_000_000_000)
    batch_size: int | None = Field(default=None, ge=1, le=65536)
    default_deadline_ms: int = Field(default=120_000, ge=1)
    max_deadline_ms: int = Field(default=600_000, ge=1)
    bound_chunk_bytes: int = Field(default=256 * MIB, ge=MIB)
    drain_seconds: float = Field(default=30.0, ge=0)

    records: Literal["required", "optional", "off"] = "required"
    data_dir: Path | None = None
    database_url: str | None = Field(default=None, repr=False)
    signing_key: Path | None = None
    store_images: bool = False
    records_max_days: float | None = Field(default=None, gt=0)
    records_max_count: int | None = Field(default=None, ge=1)
    records_deletion: bool = False

    job_slots: int = Field(default=1, ge=0, le=256)
    max_job_images: int = Field(default=100, ge=1, le=10_000)
    max_unfinished_jobs: int = Field(default=100, ge=1)
    job_lease_seconds: float = Field(default=30.0, ge=1, le=3600)
    jobs_max_days: float | None = Field(default=7.0, gt=0)

    @property
    def data_folder(self) -> Path:
        """``data_dir``, or the default."""
        state = os.environ.get("XDG_STATE_HOME", "")
        base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
        return self.data_dir or base / "surety"


def complaints(error: ValidationError) -> str:
    """What is wrong with which variable, a line each."""
    return "\n".join(
        f"surety: SURETY_{'.'.join(str(part) for part in one['loc']).upper()}: {one['msg']}, not {one['input']!r}"
        for one in error.errors()
    )
