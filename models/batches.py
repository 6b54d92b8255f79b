"""Forward passes that the runs of one network share: batches of one fixed shape, filled from whoever waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn

from certification.vocabulary import OutOfTime

LONG_SHARE = 8
"""Where both kinds wait, a pass keeps one row in so many for those that are not urgent."""


def nothing() -> None:
    """Let the work go on."""


class _Part:
    """Images of one run that wait for the network, wholly or from ``taken`` on."""

    def __init__(self, images: Tensor, urgent: bool) -> None:
        self.images, self.urgent = images, urgent
        self.taken = 0
        self.labels: list[Tensor] = []
        self.error: BaseException | None = None

    @property
    def left(self) -> int:
        return len(self.images) - self.taken

    def is_done(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.error is not None or sum(map(len, self.labels)) == len(self.images)


class SharedBatches:
    """The forward passes of one network; any number of threads may classify at once.

    A pass begins as soon as the one before it has ended, with what waits by then: nobody waits for company. It has
    always ``batch_size`` rows, the rest of them empty, because logits can depend on the batch size; a row's logits do
    not depend on the rows beside it, so a run gets the same classes alone or in company. Whichever thread finds the
    network free makes the passes until its own images are through.

    Parameters
    ----------
    network : Module
        Images [batch_size, C, h, w] to logits [batch_size, classes].
    classes : int
    batch_size : int
    """

    def __init__(self, network: nn.Module, classes: int, batch_size: int) -> None:
        self.network, self.classes, self.batch_size = network, classes, batch_size
        self.passes = self.rows = 0
        self._changed = threading.Condition()
        self._waiting: deque[_Part] = deque()
        self._busy = False

    def classify(self, images: Tensor, *, urgent: bool = False, check: Callable[[], None] = nothing) -> Tensor:
        """Classes [n] of ``images`` [n, C, h, w]; ``classes`` where a logit is not finite.

        Parameters
        ----------
        images : Tensor [n, C, h, w]
        urgent : bool
            Goes into a pass before what is not, of which one row in ``LONG_SHARE`` is let through all the same.
        check : callable
            Called between passes; may raise to give the images up. ``OutOfTime`` does not: what has begun is ended.
        """
        part = _Part(images, urgent)
        with self._changed:
            self._waiting.append(part)
        try:
            while not part.is_done():
                _go_on(check)
                with self._changed:
                    if part.is_done():
                        break
                    if self._busy:
                        self._changed.wait()
                        continue
                    self._busy = True
                try:
                    self._pass()
                finally:
                    with self._changed:
                        self._busy = False
                        self._changed.notify_all()
        finally:
            with self._changed:
                if part in self._waiting:
                    self._waiting.remove(part)
        if part.error is not None:
            raise part.error
        return part.labels[0] if len(part.labels) == 1 else torch.cat(part.labels)

    def _pass(self) -> None:
        """One pass over what waits; its error is that of every part in it."""
        with self._changed:
            taken = self._take()
        if not taken:
            return
        try:
            labels = self._labels(torch.cat([part.images[start:end] for part, start, end in taken]))
        except BaseException as error:
            for part, _, _ in taken:
                part.error = error
            return
        offset = 0
        for part, start, end in taken:
            part.labels.append(labels[offset : offset + end - start])
            offset += end - start

    def _take(self) -> list[tuple[_Part, int, int]]:
        """The rows of the next pass, by part; parts that are wholly taken wait no more."""
        urgent = [part for part in self._waiting if part.urgent]
        others = [part for part in self._waiting if not part.urgent]
        kept = min(self.batch_size // LONG_SHARE, sum(part.left for part in others)) if urgent else 0
        taken: list[tuple[_Part, int, int]] = []
        room = self.batch_size - kept
        for parts in (urgent, others):
            for part in parts:
                if (rows := min(part.left, room)) > 0:
                    taken.append((part, part.taken, part.taken + rows))
                    part.taken += rows
                    room -= rows
                if part.left == 0:
                    self._waiting.remove(part)
            room += kept
        return taken

    @torch.inference_mode()
    def _labels(self, images: Tensor) -> Tensor:
        """Classes of at most ``batch_size`` images, in one pass."""
        count = len(images)
        if count < self.batch_size:
            padding = images.new_zeros((self.batch_size - count, *images.shape[1:]))
            images = torch.cat([images, padding])
        logits = self.network(images.contiguous(memory_format=torch.channels_last))[:count]
        self.passes += 1
        self.rows += count
        return torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), self.classes)


def _go_on(check: Callable[[], None]) -> None:
    with suppress(OutOfTime):
        check()
