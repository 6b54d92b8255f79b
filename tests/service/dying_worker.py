"""A worker process that images of certain greys bring down; started by test_worker.py instead of the real one."""

import os
import signal
import sys
import time
from typing import Any

import torch

import service.computing
import service.worker

KILLS, FAILS, WAITS = 200, 201, 202
"""Grey of an image that ends the process, whose device fails, and whose run takes long: a tenth of a second a batch."""


def grey_of(votes: Any) -> int:
    return round(float(votes.image.mean()) * 255)


class Votes(service.computing.BaseClassifierVotes):
    def class_counts(self, n: int, *, pixel_noise: bool) -> Any:
        if grey_of(self) == KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        if grey_of(self) == FAILS:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return super().class_counts(n, pixel_noise=pixel_noise)

    def _classify(self, images: torch.Tensor) -> torch.Tensor:
        if grey_of(self) == WAITS:
            time.sleep(0.1)
        return super()._classify(images)


if __name__ == "__main__":
    service.computing.warm_up = lambda *what: None
    service.computing.BaseClassifierVotes = Votes  # type: ignore[misc]
    service.worker.main(int(sys.argv[1]))
