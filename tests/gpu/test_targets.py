"""CPU launches: from many threads at once, with arrays that are read-only, and what is compiled before the first."""

from __future__ import annotations

import gc
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import prange
from numba.core.registry import CPUDispatcher

from gpu import targets
from gpu.cells import BoundSettings
from gpu.error_bound import forward_error_bounds
from gpu.preprocess import Preprocessing
from gpu.residual import sampled_error
from gpu.total_error import TotalErrors

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


@targets.cpu_kernel
def doubled(values, pair, out):
    for index in prange(len(values)):
        out[index] = values[index] * pair[0][index] * pair[1]


@pytest.mark.skipif(targets.SIMULATED, reason="the simulator compiles nothing")
def test_read_only_arrays_take_no_kernel_of_their_own() -> None:
    values, factors, out = np.arange(3.0), np.ones(3), np.empty(3)
    kernel = inspect.getclosurevars(doubled).nonlocals["compiled"]
    for writable in (True, False):
        values.flags.writeable = factors.flags.writeable = writable
        out[:] = 0.0
        doubled(values, (factors, 2.0), out)
        np.testing.assert_array_equal(out, [0.0, 2.0, 4.0])
    assert len(kernel.signatures) == 1


@pytest.mark.skipif(targets.SIMULATED, reason="the simulator compiles nothing")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transformation", ["rotation", "translation"])
def test_warming_up_leaves_nothing_to_compile(transformation: str, channels: int) -> None:
    targets.warm_up_known_images(transformation)
    dispatchers = [one for one in gc.get_objects() if issubclass(type(one), CPUDispatcher)]
    before = sum(len(one.overloads) for one in dispatchers)
    operator = Preprocessing(vignette="circle", blur_sigma=2.0, interpolation="gaussian").operator(9, 8)
    image = np.random.default_rng(0).random((9, 8, channels)).astype(np.float32)
    drawn = np.array([0.5, -3.0, 2.0])
    parameters = drawn if transformation == "rotation" else np.stack([drawn, drawn[::-1]], axis=1)
    settings = BoundSettings(cell_budget=64)
    forward_error_bounds(image, parameters, transformation, 0.5, operator, settings)
    TotalErrors(image, transformation, 0.5, operator, settings).bounds(parameters)
    sampled_error(image, transformation, 0.5, operator, operator.for_original(), 3)
    assert sum(len(one.overloads) for one in dispatchers) == before > 0
