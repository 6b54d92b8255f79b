"""A worker process that images of certain greys bring down; started by test_worker.py instead of the real one."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

import service.computing
import service.worker

KILLS, FAILS, WAITS, FAILS_ONCE = 200, 201, 202, 203
"""Grey of an image that ends the process, whose device fails, whose run takes long (a tenth of a second a batch), and
whose device fails unless the file is there that :data:`MARK` names."""
MARK = "DYING_WORKER_MARK"


def broken(*ignored: object) -> torch.AcceleratorError:
    """What CUDA answers to everything from then on."""
    service.worker._device_memory = fail
    return torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def fail(device: str) -> Any:
    raise broken()


def grey_of(votes: Any) -> int:
    return round(float(votes.image.mean()) * 255)


def failed_first() -> bool:
    """Whether this was the first time anybody asked."""
    try:
        Path(os.environ[MARK]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class Votes(service.computing.BaseClassifierVotes):
    def class_counts(self, n: int, *, pixel_noise: bool) -> Any:
        if grey_of(self) == KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        if grey_of(self) == FAILS or (grey_of(self) == FAILS_ONCE and failed_first()):
            raise broken()
        return super().class_counts(n, pixel_noise=pixel_noise)

    def _classify(self, images: torch.Tensor) -> torch.Tensor:
        if grey_of(self) == WAITS:
            time.sleep(0.1)
        return super()._classify(images)


if __name__ == "__main__":
    service.computing.warm_up = lambda *what: None
    service.computing.BaseClassifierVotes = Votes  # type: ignore[misc]
    service.worker.main(int(sys.argv[1]))
