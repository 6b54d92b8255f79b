"""One source, two targets: how scalar functions and kernels are compiled, and which device runs them.

A *scalar* function is compiled by ``numba.njit`` for the CPU and recompiled for the device wherever a
CUDA kernel calls it. A *kernel* is a pair of thin loops over the same body. Fast-math is never used:
the error bounds rely on IEEE arithmetic.

With ``NUMBA_ENABLE_CUDASIM=1`` (numba's CUDA simulator) everything runs as plain Python, so that the
simulator executes the very functions that the device would.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Collection
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import cuda
from numpy.typing import NDArray

SIMULATED = bool(numba.config.ENABLE_CUDASIM)
THREADS_PER_BLOCK = 8 if SIMULATED else 128
LAUNCH_LOCK = threading.RLock()
"""Held during a CPU launch where numba's threading layer must not be entered by two threads."""


class DeviceError(RuntimeError):
    """The requested device does not exist here."""


def _source_digest() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cache_is_usable() -> bool:
    """Point numba's cache at a directory named after this room's sources.

    ``cache=True`` alone does not notice an edit in a file that the cached function calls into; a
    directory for each state of the sources does.
    """
    if SIMULATED:
        return False
    base = os.environ.get("SURETY_CACHE_DIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "surety"
    )
    directory = Path(base) / f"kernels-{_source_digest()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError:
        return False
    numba.config.CACHE_DIR = str(directory)
    return True


_CACHE = _cache_is_usable()


def scalar(function: Callable[..., Any]) -> Any:
    """Compile ``function`` for the CPU now and for the device inside any CUDA kernel that calls it."""
    if SIMULATED:
        return function
    return numba.njit(cache=_CACHE, error_model="numpy", fastmath=False)(function)


def cpu_kernel(function: Callable[..., Any]) -> Any:
    """Compile a loop over ``numba.prange`` for all cores of the CPU."""
    if SIMULATED:
        return function
    compiled = numba.njit(
        cache=_CACHE, error_model="numpy", fastmath=False, parallel=True, nogil=True
    )(function)

    def launch(*arguments: Any) -> None:
        with LAUNCH_LOCK if _takes_turns() else nullcontext():
            compiled(*_writable(arguments))

    return launch


def _writable(argument: Any) -> Any:
    """The same, with copies of read-only arrays, for whose type a kernel would be compiled a second time.

    Those that another process has shared (Ray's store) are read-only.
    """
    if isinstance(argument, tuple):
        return tuple(_writable(one) for one in argument)
    if isinstance(argument, np.ndarray) and not argument.flags.writeable:
        return argument.copy()
    return argument


def _takes_turns() -> bool:
    """Whether two threads must not launch at once: in numba's own threading layer, not with OpenMP or TBB."""
    try:
        return bool(numba.threading_layer() == "workqueue")
    except ValueError:  # nothing was launched yet, which chooses the layer
        return True


def cuda_kernel(function: Callable[..., Any]) -> Any:
    """Compile a CUDA kernel at its first launch."""
    return cuda.jit(fastmath=False)(function)


def cuda_launch(kernel: Any, count: int, *arguments: Any) -> None:
    """Run a one-dimensional CUDA kernel over ``count`` indices."""
    blocks = (count + THREADS_PER_BLOCK - 1) // THREADS_PER_BLOCK
    kernel[blocks, THREADS_PER_BLOCK](*arguments)


def select_device(name: str) -> str:
    """Turn a wish into a device: ``auto`` takes CUDA where there is one.

    Parameters
    ----------
    name : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    str
        ``cpu`` or ``cuda``.

    Raises
    ------
    DeviceError
        If the name is unknown, or CUDA is asked for and absent.
    """
    if name == "cpu":
        return "cpu"
    if name not in ("auto", "cuda"):
        raise DeviceError(f"device must be auto, cpu or cuda, not {name!r}")
    if cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise DeviceError("device cuda was asked for, but no CUDA device is available")
    return "cpu"


def warm_up(device: str, interpolations: Collection[str] = ("bilinear", "gaussian")) -> None:
    """Compile the kernels that most requests reach, on tiny images; takes a while once, then comes from the cache.

    Those of known images with Gaussian interpolation are left to :func:`warm_up_known_images`: they take minutes, more
    than all others together.

    Parameters
    ----------
    device : {"cpu", "cuda"}
    interpolations : collection of {"bilinear", "gaussian"}
        Those of the loaded models.
    """
    # The rooms above import this one.
    from .error_bound import forward_error_bounds, individual_error_bounds
    from .kernels import lattice, noise
    from .lattice import LatticeNoise
    from .preprocess import Operator
    from .total_error import TotalErrors
    from .warp import transform_image, warp_batch

    for transformation in ("rotation", "translation"):
        for interpolation in interpolations:
            image, parameters, operator, settings = _tiny(transformation, interpolation)
            transform_image(image, parameters[0], transformation)
            out = cuda.device_array((2, 1, 6, 6), np.float32) if device == "cuda" else None
            warp_batch(image[None], parameters, transformation, operator, device=device, out=out)
            individual_error_bounds(image, parameters, transformation, 1.0, operator, settings, device=device)
            if isinstance(operator, Operator):
                forward_error_bounds(image, parameters, transformation, 1.0, operator, settings, device=device)
                TotalErrors(image, transformation, 1.0, operator, settings).bounds(parameters)
    batch = np.zeros((1, 1, 6, 6), dtype=np.float32)
    buffer = cuda.to_device(batch) if device == "cuda" else batch
    noise.launch(0, [0], [0], 1.0, buffer, device)
    lattice.launch(np.zeros((1, 6, 6), dtype=np.int32), LatticeNoise.of(1.0), 0, [0], [0], buffer, device)


def warm_up_known_images(transformation: str) -> None:
    """Compile the kernels that :func:`warm_up` leaves out, all of them the CPU's: minutes once, then from the cache.

    Parameters
    ----------
    transformation : {"rotation", "translation"}
    """
    from .error_bound import forward_error_bounds
    from .residual import sampled_error
    from .total_error import TotalErrors

    image, parameters, operator, settings = _tiny(transformation, "gaussian")
    forward_error_bounds(image, parameters, transformation, 1.0, operator, settings)
    TotalErrors(image, transformation, 1.0, operator, settings).bounds(parameters)
    sampled_error(image, transformation, 1.0, operator, operator.for_original(), 2)


def _tiny(transformation: str, interpolation: str) -> tuple[NDArray[np.float32], NDArray[np.float64], Any, Any]:
    """An image of one grey, two parameters, an operator and settings of bounds, with little to compute."""
    from .cells import BoundSettings
    from .preprocess import Preprocessing

    blurred: dict[str, Any] = {"blur_sigma": 1.5} if interpolation == "gaussian" else {"blur_size": 3}
    operator = Preprocessing(vignette="circle", interpolation=interpolation, **blurred).operator(6, 6)
    parameters = np.zeros(2) if transformation == "rotation" else np.zeros((2, 2))
    settings = BoundSettings(cell_width=0.5, refinements=1, cell_budget=8)
    return np.full((6, 6, 1), 0.5, dtype=np.float32), parameters, operator, settings
