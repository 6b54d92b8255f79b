"""Wire types: every field with its unit and range. Requests refuse what they do not know."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from certification.vocabulary import Estimator, Guarantee, ImageIs, Procedure, StoppedBy, Transformation

MAX_DRAWS = 10_000_000
"""The limit of certification.effort; importing it would bring scipy to clients, which need these types only."""
MAX_BOUNDED_DRAWS = 10_000
MIN_ALPHA = 1e-300
"""Its shares are numbers above 0 too, which those of the smallest floating-point numbers are not."""
Draws = Annotated[int, Field(ge=1, le=MAX_DRAWS)]
ByName = Field(strict=False)
INTEGERS = frozenset({"n0", "n", "n_delta", "n_error", "deadline_ms"})
NUMBERS = frozenset({"alpha", "attack_range", "wanted_radius"})
"""Fields that are numbers, for the encoding in which everything is text."""


Deadline = Annotated[
    Annotated[int, Field(ge=1)] | None,
    Field(
        description="Milliseconds after which the answer is what was shown until then (stopped_by deadline), waiting "
        "included; default and ceiling are the server's.",
    ),
]


class Fields(BaseModel):
    """What the two POST requests share, beside the image. Numbers are numbers: no text, no truth values."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())

    model: Annotated[str, Field(max_length=100)] | None = Field(
        default=None, description="Id of a model; default: the first one for the transformation."
    )
    transformation: Annotated[Transformation, ByName] | None = Field(
        default=None, description="Default: what the model was trained for, or rotation if no model is named."
    )
    guarantee: Annotated[Guarantee, ByName] | None = Field(
        default=None,
        description="Default: distributional where a calibrated bound covers the attack range, else individual.",
    )
    alpha: float = Field(
        default=0.01,
        ge=MIN_ALPHA,
        lt=1,
        description="Probability that the answer is wrong, over the noise drawn for it.",
    )
    n0: Draws = Field(default=100, description="Selection draws: they choose the class.")
    n: Draws | None = Field(
        default=None,
        description="Estimation draws: the most there may be; default 1000 with inner tests, 10,000 where a draw is "
        "one vote. Of the paper's procedure their number; default 200 and 1000.",
    )
    n_delta: Draws | None = Field(
        default=None,
        description="Pixel-noise draws at each drawn parameter: the most there may be (paper: their number); default: "
        "chosen.",
    )
    deadline_ms: Deadline = None
    procedure: Annotated[Procedure, ByName] = Field(
        default=Procedure.SEQUENTIAL,
        description="sequential stops once the answer is known; paper makes a number of draws fixed beforehand.",
    )
    estimator: Annotated[Estimator, ByName] = Field(
        default=Estimator.AUTO,
        description="Which smoothed classifier answers: nested (the class that most parameters give by a vote over "
        "pixel noise), joint (the class of most pairs of parameter and pixel noise), or the one that the selection "
        "draws promise to be cheaper. Matters for the distributional and the individual guarantee of a rotation or "
        "translation.",
    )


class PredictFields(Fields):
    """``POST /v1/predict`` without the image."""


class CertifyFields(Fields):
    """``POST /v1/certify`` without the image."""

    attack_range: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Half-width of the attack range: degrees, pixels (on each axis) or l2 intensity; "
        "default: the model's, for l2 half of sigma_delta.",
    )
    wanted_radius: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Radius at which the run may stop: degrees, pixels or l2 intensity; it also stops once this radius "
        "is out of reach. Default: one that covers the attack range, and else the largest that the draws show.",
    )
    n_error: Annotated[int, Field(ge=1, le=MAX_BOUNDED_DRAWS)] | None = Field(
        default=None,
        description="Individual, bilinear models, with procedure paper or estimator joint: draws at which this image's "
        "error is bounded for rho_E; default 200.",
    )
    image_is: Annotated[ImageIs, ByName] = Field(
        default=ImageIs.RECEIVED,
        description="Whether the image may already be attacked (received), or is the clean one (reference).",
    )


class VerifyFields(BaseModel):
    """``POST /v1/certificates/{id}/verify`` without the image."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    deadline_ms: Deadline = None


class Reply(BaseModel):
    """Base of all replies."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class CountsReply(Reply):
    """Draws and votes of one run."""

    selection: int = Field(description="Draws that chose the class.")
    n: int = Field(description="Draws that the estimate rests on; of a sequential run, a prefix of those made.")
    passed: int = Field(description="Of these, the draws that passed (without inner tests: voted for the class).")
    n_delta: int = Field(description="Votes at each of these parameters; of a sequential run, the most at one.")
    votes: int = Field(description="Base-classifier evaluations in all.")


class SecondsReply(Reply):
    """Seconds by stage; 0 where a stage did not happen. ``total`` includes waiting for a turn."""

    decode: float
    inverse: float
    bound: float
    select: float
    estimate: float
    total: float


class AnswerReply(Reply):
    """What the two answers share."""

    label: int | None = Field(description="Index of the class; null when abstained.")
    class_name: str | None = Field(description="Name of the class; null when abstained.")
    abstained: bool
    reason: str | None = Field(description="Why it abstained; null otherwise.")
    transformation: Transformation
    guarantee: Guarantee
    procedure: Procedure
    estimator: Estimator | None = Field(
        description="Which smoothed classifier the answer is about; null where there is one kind of noise, or no vote."
    )
    stopped_by: StoppedBy | None = Field(
        description="Why a sequential run ended: what was wanted is shown (certified) or out of reach (hopeless), or "
        "draws, votes or the time are used up; null for the paper's procedure, unless its time was up."
    )
    alpha: float
    counts: CountsReply
    sigma_gamma: float = Field(description="Standard deviation of the parameter noise, degrees or pixels; l2: 0.")
    sigma_delta: float = Field(
        description="Standard deviation of the pixel noise, intensity in [0, 1]; 0 where none was added."
    )
    model: str
    model_digest: str = Field(description="SHA-256 of the model's card and weights.")
    version: str
    seconds: SecondsReply


class PredictReply(AnswerReply):
    """The smoothed classifier's label, without a radius."""


class ErrorBoundReply(Reply):
    """The bound of the interpolation error that was used (l2 norm, intensity); null where none was found."""

    error_bound: float | None = Field(description="E.")
    rho_E: float = Field(description="Probability of a drawn parameter with an error above E, at most; 0 if per_draw.")
    q_E: float | None = Field(description="Distributional: share of images for which E holds, at least.")
    confidence: float | None = Field(description="Distributional: confidence of q_E.")
    draws: int | None = Field(description="Individual: parameters at which this image's error was bounded.")
    smallest: float | None
    median: float | None
    largest: float | None
    per_draw: bool = Field(description="Whether each draw was tested against its own bound; E is then their median.")


class CertifyReply(AnswerReply):
    """A certificate, or an abstention with the same fields."""

    radius: float | None = Field(
        description="Certified radius in radius_unit, at most the attack range; null when abstained."
    )
    radius_unit: str = Field(description="degrees, pixels or intensity.")
    attack_range: float = Field(description="Half-width in radius_unit.")
    wanted_radius: float = Field(description="Radius in radius_unit at which the run would stop.")
    required: dict[str, float] | None = Field(description="Numbers that would have done, where abstained for such.")
    covers_attack_range: bool = Field(description="Whether every parameter of the attack range lies within the radius.")
    image_is: ImageIs
    statement: str = Field(description="The sentence that this answer means.")
    alpha_shares: dict[str, float] = Field(
        description="alpha = alpha_gamma + alpha_E; alpha_delta is the inner level subtracted from p_lower."
    )
    p_lower: float | None = Field(description="Lower bound on the probability that a draw passes.")
    error_bound: ErrorBoundReply | None
    certificate_id: str | None = Field(
        default=None, description="Of the stored certificate; null where none was stored. Whoever knows it may read it."
    )


class JobStatus(StrEnum):
    """Of a job, and of each of its images; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Problem(Reply):
    """RFC 9457; further members depend on the type (``field``, ``required``, ``expected``, ...)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(
        description="urn:surety:problem: and a stable label.", examples=["urn:surety:problem:invalid_field"]
    )
    title: str
    status: int
    detail: str
    instance: str


class JobItemReply(Reply):
    """One image of a job."""

    item: int = Field(description="Place of the image among those sent, from 0.")
    status: JobStatus
    reply: CertifyReply | None = Field(description="What /v1/certify would have answered; null until it is done.")
    problem: Problem | None = Field(description="Why it failed; null otherwise.")


class JobReply(Reply):
    """A job and all that came of it so far."""

    id: str
    status: JobStatus = Field(description="done: all images are over, and at least one of them done; failed: none is.")
    created: str = Field(description="UTC.")
    finished: str | None = Field(description="UTC; null while images wait or are computed.")
    last_event_id: int = Field(description="Number of the newest event.")
    items: list[JobItemReply]


class SignedCertificateReply(Reply):
    """A certificate as it was signed: the signature is of the canonical JSON of ``certificate`` (docs/records.md)."""

    certificate: dict[str, Any]
    signature: str = Field(description="Ed25519, base64.")
    public_key: str = Field(description="32 bytes, base64.")
    key_fingerprint: str = Field(description="SHA-256 of the public key in DER, hex.")


class SigningKeyReply(Reply):
    """The public key that signs certificates."""

    algorithm: str
    public_key: str = Field(description="PEM.")
    fingerprint: str = Field(description="SHA-256 of the public key in DER, hex.")


class DifferenceReply(Reply):
    """A value that is not the recorded one."""

    field: str
    recorded: Any
    found: Any


class VerifyReply(Reply):
    """Whether a certificate holds, and if not, why."""

    verified: bool
    reason: str | None = Field(description="Why it does not hold, or is not known to; null where it does.")
    stopped_by: Literal[StoppedBy.DEADLINE] | None = Field(
        description="deadline: the time was up before the run was made again, so nothing is known of the certificate."
    )
    differences: list[DifferenceReply] = Field(description="What is not as recorded.")
    runtime_differences: list[DifferenceReply] = Field(
        description="Software and device that differ from the recorded ones: the last bits of an answer may then too."
    )
    certificate_id: str | None
    key_fingerprint: str | None = Field(
        description="Of the key that the certificate came with; null where it cannot be read."
    )
    key_is_trusted: bool = Field(description="Whether that is the key it had to be signed with.")


class BoundReply(Reply):
    """A stored distributional bound: with ``confidence``, it holds for a share ``q_E`` of images."""

    model: str
    transformation: Transformation
    attack_range: float = Field(description="Half-width; degrees or pixels.")
    unit: str
    error_bound: float = Field(description="E: l2 norm, intensity; the most that any image's is.")
    sampled_attacks: int = Field(
        description="Parameters an axis at which a reference image's own error is computed; 0: not at all."
    )
    factor: float = Field(description="E of an image is at most this times the largest of those errors.")
    rho_E: float
    q_E: float
    confidence: float
    dataset: str
    split: str
    images: int
    images_passed: int
    parameter_draws: int
    sigma_gamma: float
    image_is: str = Field(description="Which image is in hand: received, reference or either.")
    method: str
    seed: int
    version: str
    created: str


class BoundsReply(Reply):
    """Stored bounds, narrowest attack range first."""

    bounds: list[BoundReply]


class InputReply(Reply):
    """Images a model takes."""

    height: int
    width: int
    channels: int
    resize_uploads: bool = Field(description="Whether other sizes are resized (which no certificate covers).")


class ModelReply(Reply):
    """A base classifier and its noise."""

    id: str
    description: str
    digest: str
    transformation: Transformation | None
    unit: str | None
    serves: list[str] = Field(description="Values of transformation that this model answers.")
    input: InputReply
    classes: list[str]
    architecture: str
    preprocessing: dict[str, Any]
    sigma_gamma: float | None
    sigma_delta: float | None
    largest_attack_range: float | None = Field(description="Largest half-width accepted.")
    default_attack_range: float | None
    accuracy: dict[str, Any] | None = Field(description="Measured accuracies, if the card gives them.")
    calibrated_attack_ranges: list[float] = Field(description="Half-widths with a distributional bound.")


class ModelsReply(Reply):
    """All models."""

    models: list[ModelReply]


class HealthReply(Reply):
    """Open to strangers, and so nothing but the status."""

    status: Literal["live", "ready"]


class BoundsQuery(BaseModel):
    """``GET /v1/bounds``: which ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: Annotated[str, Field(max_length=100)] | None = Field(default=None, description="Only this model's.")
    transformation: Transformation | None = Field(default=None, description="Only this transformation's.")
