"""What every room's tests share: where data lies, and hypothesis without a clock."""

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported by a test module: pools that spin while they wait take each other's cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
from hypothesis import HealthCheck, settings

# Compiled kernels make the first example of a test slow and the machines that run this are shared,
# so time says nothing about an example.
settings.register_profile("surety", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("surety")

LONGEST = (
    "test_residual", "test_worker", "test_ray", "test_job_restarts", "test_cuda", "test_operations", "test_evaluate",
    "test_ray_map", "test_calibrate", "test_error_bound", "test_record_store", "test_coverage", "test_adaptive",
)  # fmt: skip
"""Files that take longest: begun last, one of them would leave one process alone.

The first compiles what others of them need, so that no two processes compile it.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the others as they were."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


RAW_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@pytest.fixture(scope="session", autouse=True)
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where servers keep certificates unless a test says otherwise: never the developer's own."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURETY_DATA_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """Root that torchvision.datasets.MNIST takes, from SURETY_DATA; skips where there is none."""
    named = os.environ.get("SURETY_DATA")
    if not named:
        pytest.skip("SURETY_DATA is not set: it names a directory that holds MNIST/raw")
    root = Path(named)
    missing = [name for name in RAW_FILES if not (root / "MNIST" / "raw" / name).is_file()]
    if missing:
        pytest.skip(f"SURETY_DATA={root} lacks MNIST/raw/{missing[0]} (uncompressed IDX)")
    return root


@pytest.fixture(scope="session")
def imagenet_root() -> Path:
    """Directory with an ImageNet classifier and sample images, from SURETY_IMAGENET; skips where none is."""
    named = os.environ.get("SURETY_IMAGENET")
    if not named:
        pytest.skip("SURETY_IMAGENET is not set: it names a directory with a classifier and samples/")
    root = Path(named)
    if not (root / "samples").is_dir():
        pytest.skip(f"SURETY_IMAGENET={root} has no samples directory")
    return root
