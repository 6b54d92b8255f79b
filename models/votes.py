"""Votes of a base classifier: numbered draws, noise keyed by draw and vote, batches of one fixed shape."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certification.vocabulary import OutOfTime, Transformation
from gpu.kernels import lattice, noise
from gpu.lattice import to_lattice
from gpu.preprocess import AnyOperator
from gpu.warp import warp_batch

from .batches import SharedBatches, nothing
from .registry import LoadedModel

BATCH_NUMBERS = {"cpu": 2**20, "cuda": 2**24}
"""Numbers in the images of a batch, about: what a network makes of them is some ten times as large."""
BATCH_SIZES = {"cpu": (8, 256), "cuda": (32, 4096)}
PARAMETER_BLOCK = 256


def default_batch_size(device: str, numbers: int) -> int:
    """Images of so many numbers in one forward pass: a power of two, fixed for a model and a device."""
    least, most = BATCH_SIZES[device]
    fitting = max(BATCH_NUMBERS[device] // numbers, 1)
    return min(max(1 << (fitting.bit_length() - 1), least), most)


class BaseClassifierVotes:
    """A ``VoteSource`` for one image (``certification.protocols``).

    All noise follows from the key: draw ``i`` has the same parameter, and its vote ``j`` the same pixel noise,
    whatever else is asked, in which order, and in batches of whatever size (docs/guarantees.md, B.7). Every batch of
    the network has the same shape, padded at the end, because logits can depend on the batch size; so the classifier
    that is certified is the one that is served. A row with a logit that is not finite votes for no class.

    Parameters
    ----------
    model : LoadedModel
    image : ndarray [H, W, C] float32
        In [0, 1].
    transformation : Transformation
    key : bytes
        What the noise follows from: unforeseeable in service, fixed in tests.
    device : {"cpu", "cuda"}
    operator : AnyOperator, optional
        The P behind which votes are cast; the model's own by default.
    batch_size : int, optional
        Images in one forward pass, which bounds the memory; by default fewer of larger ones.
    batches : SharedBatches, optional
        The forward passes of other runs of the same model; then ``batch_size`` is theirs.
    urgent_seconds : float
        For so long from now votes go before those of other runs.
    check : callable
        Called before every batch; may raise to stop the work. ``OutOfTime`` goes on with the votes cast until then.

    Attributes
    ----------
    votes : int
        Base-classifier evaluations so far.
    drawn : int
        Draws so far.

    Raises
    ------
    ValueError
        If the image is not of the model's shape, or the model has no noise for the transformation.
    """

    def __init__(
        self,
        model: LoadedModel,
        image: NDArray[np.float32],
        transformation: Transformation,
        *,
        key: bytes,
        device: str = "cpu",
        operator: AnyOperator | None = None,
        batch_size: int | None = None,
        batches: SharedBatches | None = None,
        urgent_seconds: float = 0.0,
        check: Callable[[], None] = nothing,
    ) -> None:
        card = model.card
        if image.shape != (card.input.height, card.input.width, card.input.channels):
            raise ValueError(f"{card.id} takes images {card.input}, not of shape {image.shape}")
        if transformation not in card.transformations:
            raise ValueError(f"{card.id} has noise for {card.transformations}, not for {transformation}")
        self.model, self.image, self.transformation, self.device = model, image, transformation, device
        self._operator = operator or model.operator
        self._batches = batches or SharedBatches(
            model.network, self.classes, batch_size or default_batch_size(device, math.prod(self._shape))
        )
        self.batch_size = self._batches.batch_size
        self._urgent_until, self.check = time.monotonic() + urgent_seconds, check
        self._generator = np.random.Generator(np.random.Philox(key=_words(key, b"parameters", 16)))
        self._noise_key = _words(key, b"pixels", 8)
        dimensions = 1 if transformation is Transformation.ROTATION else 2
        self._parameters = np.empty((0, dimensions))
        self._cast = np.empty(0, dtype=np.int64)
        self.drawn = self.votes = 0

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.model.card.class_names)

    def draw_parameters(self, n: int) -> NDArray[np.float64]:
        """The next ``n`` parameters ``N(0, sigma_gamma^2)``: [n] degrees, or [n, 2] pixels; the identity for l2."""
        first, self.drawn = self.drawn, self.drawn + n
        if (short := self.drawn - len(self._parameters)) > 0:
            # in blocks, so that what a draw is does not depend on how many were asked for at once
            blocks = -(-short // PARAMETER_BLOCK)
            sigma = 0.0 if self.transformation is Transformation.L2 else self.model.card.noise.sigma_gamma
            more = self._generator.normal(0.0, sigma, (blocks * PARAMETER_BLOCK, self._parameters.shape[1]))
            self._parameters = np.concatenate([self._parameters, more])
            self._cast = np.concatenate([self._cast, np.zeros(len(more), dtype=np.int64)])
        found = self._parameters[first : self.drawn]
        return found[:, 0] if self.transformation is Transformation.ROTATION else found

    def class_counts(self, n: int, *, pixel_noise: bool) -> NDArray[np.int64]:
        """Votes by class [classes] of the next ``n`` draws, one vote each."""
        draws = np.arange(self.drawn, self.drawn + n)
        self.draw_parameters(n)
        counts = torch.zeros(self.classes + 1, dtype=torch.int64, device=self.device)
        before = self.votes
        try:
            for labels, _ in self._labels(draws, np.ones(n, dtype=np.int64), pixel_noise):
                counts.index_add_(0, labels, torch.ones_like(labels))
        except OutOfTime:
            raise OutOfTime(np.array([self.votes - before]), counts[: self.classes].cpu().numpy()) from None
        return np.asarray(counts[: self.classes].cpu().numpy())

    def votes_at(self, draws: NDArray[np.int64], counts: NDArray[np.int64], *, label: int) -> NDArray[np.int64]:
        """Votes [m] for ``label`` among the next ``counts`` [m] votes at each of ``draws`` [m], all different."""
        found = torch.zeros(len(draws), dtype=torch.int64, device=self.device)
        before = self.votes
        try:
            for labels, owners in self._labels(draws, counts, True):
                found.index_add_(0, owners, (labels == label).to(torch.int64))
        except OutOfTime:
            # votes are cast draw by draw
            ends = np.cumsum(counts)
            cast = np.clip(self.votes - before - (ends - counts), 0, counts)
            raise OutOfTime(cast, found.cpu().numpy()) from None
        return np.asarray(found.cpu().numpy())

    def _labels(
        self, draws: NDArray[np.int64], counts: NDArray[np.int64], pixel_noise: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Classes that the base classifier gives, batch by batch, and the place in ``draws`` of each; both [N].

        The votes of all draws stand in one row, draw by draw, and the row is cut into full batches; a draw on a cut
        is warped again, which costs one image a batch.
        """
        ends = np.cumsum(counts)
        first_votes = self._cast[draws]
        self._cast[draws] += counts
        for start in range(0, int(ends[-1]) if len(ends) else 0, self.batch_size):
            self.check()
            row = np.arange(start, min(start + self.batch_size, int(ends[-1])))
            owners = np.searchsorted(ends, row, side="right")
            votes = first_votes[owners] + row - (ends - counts)[owners]
            distinct, places = np.unique(owners, return_inverse=True)
            images = torch.zeros((len(row), *self._shape), device=self.device)
            if self.transformation is Transformation.L2:
                self._fill_lattice(images, draws[owners], votes)
            else:
                images[:] = self._warped(self._parameters[draws[distinct]])[torch.from_numpy(places).to(self.device)]
                if pixel_noise:
                    sigma = self.model.card.noise.sigma_delta
                    noise.launch(self._noise_key, draws[owners], votes, sigma, self._buffer(images), self.device)
            yield self._classify(images), torch.from_numpy(owners).to(self.device)

    def _warped(self, parameters: NDArray[np.float64]) -> Tensor:
        """``P T_beta x`` [N, C, h, w] on the device."""
        warped = torch.empty((len(parameters), *self._shape), dtype=torch.float32, device=self.device)
        at = parameters[:, 0] if self.transformation is Transformation.ROTATION else parameters
        kind = str(self.transformation)
        warp_batch(self.image[None], at, kind, self._operator, device=self.device, out=self._buffer(warped))
        return warped

    def _fill_lattice(self, batch: Tensor, draws: NDArray[np.int64], votes: NDArray[np.int64]) -> None:
        """``P x`` and pixel noise on the lattice, for l2 (docs/guarantees.md, D.6)."""
        integers, source = self._on_lattice, self.model.lattice_noise
        lattice.launch(integers, source, self._noise_key, draws, votes, self._buffer(batch), self.device)

    @cached_property
    def _on_lattice(self) -> NDArray[np.int32]:
        return to_lattice(self._operator.apply(self.image[None])[0])

    @property
    def _shape(self) -> tuple[int, int, int]:
        """[C, h, w] of what the network sees."""
        return (self.image.shape[2], *self._operator.output_shape)

    def _buffer(self, tensor: Tensor) -> Any:
        """What a kernel can write to."""
        return tensor.numpy() if self.device == "cpu" else tensor

    def _classify(self, images: Tensor) -> Tensor:
        """Classes [n] of at most a batch of images; ``classes`` means none."""
        urgent = time.monotonic() < self._urgent_until
        labels = self._batches.classify(images, urgent=urgent, check=self.check)
        self.votes += len(images)
        return labels


def _words(key: bytes, purpose: bytes, size: int) -> int:
    """A number of ``size`` bytes from the key, another one for each purpose."""
    return int.from_bytes(hashlib.blake2b(purpose, key=key[:64], digest_size=size).digest(), "little")
