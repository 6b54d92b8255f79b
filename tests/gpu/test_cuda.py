"""The CUDA target without a GPU: numba's simulator against the CPU, and PTX for sm_90 of every kernel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numba import boolean, cuda, float32, float64, int32, int64, uint64
from numba.types import UniTuple

from gpu.kernels import error_bound, inverse, lattice, noise, residual, sampling, warp
from gpu.targets import DeviceError, select_device
from tests.gpu.simulated import results

ROOT = Path(__file__).parents[2]
I1, F1, F2, F3, F4 = int64[::1], float64[::1], float64[:, ::1], float64[:, :, ::1], float64[:, :, :, ::1]
F5 = float64[:, :, :, :, ::1]
P2, P3, P4, MASK, EMPTY = float32[:, ::1], float32[:, :, ::1], float32[:, :, :, ::1], boolean[:, ::1], boolean[::1]
BANDS = (I1, F2, I1, F2)
SIDE = (F4, F4, F2)
KERNELS = {
    "mask_cuda": (warp.mask_cuda, (P4, F2, int64, MASK, F4)),
    "filter_cuda": (warp.filter_cuda, (F4, *BANDS, F4, P4)),
    "sample_cuda": (sampling.sample_cuda, (F4, F2, int64, float64, float64, int64, F3, P4)),
    "received_cuda": (
        residual.received_cuda,
        (int64, F2, F2, F2, F2, F2, UniTuple(float64, 2), float64, float64, int64, F4, F4, F3, F2, *BANDS, *BANDS,
         *BANDS, *BANDS, F5, F5, F5, F5, F4, F3, F1),
    ),
    "boxes_cuda": (inverse.boxes_cuda, (int64, F2, F4)),
    "constrain_cuda": (
        inverse.constrain_cuda, (int64, float64, F2, F4, P3, float64, F4, F4, F4, F4, EMPTY),
    ),
    "check_cuda": (inverse.check_cuda, (P3, float64, F4, F4, F4, EMPTY)),
    "rounded_cuda": (error_bound.rounded_cuda, (int64, F2, P4, F4, F4)),
    "difference_cuda": (error_bound.difference_cuda, (int64, MASK, *SIDE, I1, I1, *SIDE, I1, F4, F4)),
    "norm_cuda": (error_bound.norm_cuda, (*BANDS, F4, F4, F4, F4, F3)),
    "noise_cuda": (noise.noise_cuda, (P2, I1, I1, uint64, uint64, float64, int64)),
    "lattice_cuda": (lattice.lattice_cuda, (P2, int32[::1], I1, I1, uint64, uint64, float64, I1, int64)),
}  # fmt: skip


def test_simulated_cuda_equals_the_cpu(tmp_path):
    """The interval results may differ by the rounding of one target's fused operations, and by no more."""
    out = tmp_path / "simulated.npz"
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "tests.gpu.simulated", str(out)], check=True, cwd=ROOT, env=environment, timeout=600
    )
    simulated, expected = np.load(out), results("cpu")
    assert set(simulated.files) == set(expected)
    for name, value in expected.items():
        assert np.isfinite(np.asarray(value, dtype=float)).all(), name
        np.testing.assert_allclose(simulated[name], value, rtol=1e-12, atol=1e-12, err_msg=name)
    assert expected["rotation-empty"].any()
    assert len(expected["rotation-lower"])


def test_every_cuda_kernel_is_listed_here():
    sources = "".join(path.read_text() for path in (ROOT / "gpu" / "kernels").glob("*.py"))
    assert set(re.findall(r"@cuda_kernel\ndef (\w+)", sources)) == set(KERNELS)


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_kernel_compiles_to_ptx_for_sm_90(name, monkeypatch):
    kernel, signature = KERNELS[name]
    dispatcher = sys.modules[type(kernel).__module__]
    device = SimpleNamespace(compute_capability=(9, 0))
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    ptx, _ = cuda.compile_ptx(kernel.py_func, signature, cc=(9, 0))
    assert ".target sm_90" in ptx
    assert ".visible .entry" in ptx
    assert ".approx" not in ptx, "fast-math must not reach the device"


def test_devices_are_chosen_by_name():
    assert select_device("cpu") == "cpu"
    assert select_device("auto") in ("cpu", "cuda")
    with pytest.raises(DeviceError, match="tpu"):
        select_device("tpu")
    if not cuda.is_available():
        with pytest.raises(DeviceError, match="no CUDA device"):
            select_device("cuda")
