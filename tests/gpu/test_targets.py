"""CPU launches from many threads at once: side by side where numba's threading layer allows it, else by turns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpu import targets

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from gpu import targets
from gpu.preprocess import Preprocessing
from gpu.warp import warp_batch

operator = Preprocessing(vignette="circle", blur_sigma=1.5, interpolation="gaussian").operator(12, 12)
chance = np.random.default_rng(0)
images = [chance.random((12, 12, 1), dtype=np.float32) for _ in range(6)]
angles = chance.normal(0.0, 30.0, 32)

def warp(number):
    return warp_batch(images[number][None], angles, "rotation", operator)

alone = [warp(number) for number in range(6)]
with ThreadPoolExecutor(6) as pool:
    for _ in range(20):
        assert all(np.array_equal(*pair) for pair in zip(pool.map(warp, range(6)), alone))
print(targets._takes_turns())
"""


@pytest.mark.skipif(targets.SIMULATED, reason="the simulator compiles nothing")
@pytest.mark.parametrize(("layer", "takes_turns"), [("workqueue", "True"), ("default", None)])
def test_launches_at_once_give_the_same_images(layer: str, takes_turns: str | None) -> None:
    """numba's own layer would end the process if two threads entered it."""
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert takes_turns in (None, done.stdout.strip())
