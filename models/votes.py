"""Votes of a base classifier: draws parameters and pixel noise, and fills batches of one fixed shape."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certification.vocabulary import Transformation
from gpu.warp import warp_batch

from .registry import LoadedModel

BATCH_SIZE = {"cpu": 256, "cuda": 4096}


class BaseClassifierVotes:
    """A ``VoteSource`` for one image (``certification.protocols``).

    Parameters and pixel noise come from two independent streams of one seed. Every batch has the same shape,
    padded at the end, because a network's logits can depend on the batch size; so the classifier that is
    certified is the one that is served. A row with a logit that is not finite votes for no class.

    Parameters
    ----------
    model : LoadedModel
    image : ndarray [H, W, C] float32
        In [0, 1].
    transformation : Transformation
    seed : int
        From the operating system's entropy in service; fixed in tests.
    device : {"cpu", "cuda"}
    batch_size : int, optional
        Images in one forward pass; bounds the memory.

    Attributes
    ----------
    votes : int
        Base-classifier evaluations so far.

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
        seed: int,
        device: str = "cpu",
        batch_size: int | None = None,
    ) -> None:
        card = model.card
        if image.shape != (card.input.height, card.input.width, card.input.channels):
            raise ValueError(f"{card.id} takes images {card.input}, not of shape {image.shape}")
        if transformation not in card.transformations:
            raise ValueError(f"{card.id} has noise for {card.transformations}, not for {transformation}")
        self.model, self.image, self.transformation, self.device = model, image, transformation, device
        self.batch_size = batch_size or BATCH_SIZE[device]
        parameter_seed, noise_seed = np.random.SeedSequence(seed).spawn(2)
        self._parameters = np.random.default_rng(parameter_seed)
        self._noise = torch.Generator(device=device)
        self._noise.manual_seed(int(noise_seed.generate_state(1, np.uint64)[0] >> 1))
        self.votes = 0

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.model.card.class_names)

    def draw_parameters(self, n: int) -> NDArray[np.float64]:
        """``n`` parameters ``N(0, sigma_gamma^2)``: [n] degrees, or [n, 2] pixels; the identity for l2."""
        if self.transformation is Transformation.L2:
            return np.zeros((n, 2))
        shape = (n, 2) if self.transformation is Transformation.TRANSLATION else (n,)
        return self._parameters.normal(0.0, self.model.card.noise.sigma_gamma, shape)

    def class_counts(self, n: int, *, pixel_noise: bool) -> NDArray[np.int64]:
        """Votes by class [classes] of ``n`` fresh draws, one vote each."""
        counts = torch.zeros(self.classes + 1, dtype=torch.int64, device=self.device)
        for first in range(0, n, self.batch_size):
            warped = self._warp(self.draw_parameters(min(self.batch_size, n - first)))
            labels = self._labels(warped, pixel_noise)
            counts.index_add_(0, labels, torch.ones_like(labels))
        return np.asarray(counts[: self.classes].cpu().numpy())

    def votes_at(self, parameters: NDArray[np.float64], *, label: int, n_delta: int) -> NDArray[np.int64]:
        """Votes [n] for ``label`` among ``n_delta`` draws of pixel noise at each parameter.

        The votes of all parameters stand in one row, parameter by parameter, and the row is cut into full
        batches; a parameter on a cut is warped again, which costs one image a batch.
        """
        counts = torch.zeros(len(parameters), dtype=torch.int64, device=self.device)
        total = len(parameters) * n_delta
        for start in range(0, total, self.batch_size):
            stop = min(start + self.batch_size, total)
            first, last = start // n_delta, (stop - 1) // n_delta
            owners = torch.arange(start, stop, device=self.device) // n_delta
            warped = self._warp(parameters[first : last + 1])
            hits = self._labels(warped[owners - first], True) == label
            counts.index_add_(0, owners, hits.to(torch.int64))
        return np.asarray(counts.cpu().numpy())

    def _warp(self, parameters: NDArray[np.float64]) -> Tensor:
        """P T_beta x [N, C, h, w] on the device."""
        operator = self.model.operator
        kind = "translation" if self.transformation is Transformation.L2 else str(self.transformation)
        out = torch.empty(
            (len(parameters), self.image.shape[2], *operator.output_shape), dtype=torch.float32, device=self.device
        )
        target = out.numpy() if self.device == "cpu" else out
        warp_batch(self.image[None], parameters, kind, operator, device=self.device, out=target)
        return out

    @torch.inference_mode()
    def _labels(self, warped: Tensor, pixel_noise: bool) -> Tensor:
        """Classes [N] that the base classifier gives to at most a batch of images; ``classes`` means none."""
        count = len(warped)
        batch = torch.zeros((self.batch_size, *warped.shape[1:]), device=self.device)
        if pixel_noise:
            batch.normal_(0.0, self.model.card.noise.sigma_delta, generator=self._noise)
        batch[:count] += warped
        logits = self.model.network(batch.contiguous(memory_format=torch.channels_last))[:count]
        self.votes += count
        labels = logits.argmax(dim=1)
        return torch.where(torch.isfinite(logits).all(dim=1), labels, self.classes)
