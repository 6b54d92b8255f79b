"""Ray clusters of one test file: small, private, and gone afterwards."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 2**20
TOKEN = secrets.token_hex(32)
"""Only this process uses its clusters; Ray would keep a token of its own in the home directory, and reads it once."""
IGNORED = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
"""What Ray 2.60 itself is warned of when its modules are loaded."""


@contextmanager
def ray_environment(**environment: str) -> Iterator[Path]:
    """What the processes of a cluster are to see, and a folder for what it writes."""
    # A short path: sockets lie below it, and names of sockets are short.
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    own = {
        "RAY_TMPDIR": str(folder), "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0",
        "SURETY_DATA_DIR": str(folder / "data"),
        # else whatever is tested beside it leaves its workers hardly any of the cores
        "RAY_worker_niceness": "0",
    }  # fmt: skip
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**own, **environment}.items():
                patch.setenv(name, value)
            patch.setenv("RAY_AUTH_MODE", "set by Ray, and undone with the rest")
            patch.delenv("RAY_AUTH_MODE")
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def local_cluster(cpus: int, **environment: str) -> Iterator[None]:
    """A cluster on this machine."""
    import ray

    with ray_environment(**environment):
        try:
            ray.init(
                "local", num_cpus=cpus, include_dashboard=False, object_store_memory=80 * MIB, log_to_driver=False,
                logging_level="error",
            )  # fmt: skip
            yield
        finally:
            ray.shutdown()
