"""A PostgreSQL server of the tests' own, where Debian's package (or another in its place) is installed."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

UNPRIVILEGED = "nobody"


class Postgres:
    """A cluster in a folder, reached through a socket in it."""

    def __init__(self, programs: Path, folder: Path, user: str | None) -> None:
        self._programs, self._folder, self._user = programs, folder, user

    def run(self, program: str, *arguments: str) -> None:
        """Run one of the cluster's programs."""
        with (self._folder / "log").open("ab") as log:
            subprocess.run(
                [str(self._programs / program), "-D", str(self._folder / "data"), *arguments],
                user=self._user, cwd=self._folder, check=True, timeout=120, stdout=log, stderr=log,
            )  # fmt: skip

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = f"-k {self._folder} -c listen_addresses= -c fsync=off"
        self.run("pg_ctl", "start", "-w", "-o", options)

    def stop(self) -> None:
        """Stop at once, as in a crash."""
        self.run("pg_ctl", "stop", "-w", "-m", "immediate")

    def create_database(self, tablespace: str = "pg_default") -> str:
        """An empty database's URL."""
        name = f"d{secrets.token_hex(8)}"
        self.execute(f"CREATE DATABASE {name} TABLESPACE {tablespace}")
        return f"postgresql://surety@/{name}?host={self._folder}"

    def execute(self, statement: str) -> None:
        """Run a statement that belongs to the whole cluster."""
        with psycopg.connect(f"host={self._folder} user=surety dbname=postgres", autocommit=True) as connection:
            connection.execute(statement.encode())

    @contextmanager
    def small_disk(self, mebibytes: int) -> Iterator[Path]:
        """An empty file system of that size for the cluster's tablespaces; skips the test where none may be mounted."""
        folder = Path(tempfile.mkdtemp(prefix="surety-disk-", dir="/tmp"))
        owner = pwd.getpwnam(self._user or pwd.getpwuid(os.geteuid()).pw_name).pw_uid
        mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,uid={owner},mode=700", "tmpfs", str(folder)]
        try:
            if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
                pytest.skip("a file system cannot be mounted here")
            try:
                yield folder
            finally:
                # lazily: the cluster lets go of its files in its own time
                subprocess.run(["umount", "--lazy", str(folder)], check=True)
        finally:
            folder.rmdir()


@contextmanager
def postgres_cluster() -> Iterator[Postgres]:
    """A running cluster; skips the test where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: no /usr/lib/postgresql/*/bin/initdb")
    # its programs refuse to run as root; the folder's path must be short enough for a socket
    folder = Path(tempfile.mkdtemp(prefix="surety-pg-", dir="/tmp"))
    user = None
    if os.geteuid() == 0:
        user = UNPRIVILEGED
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    cluster = Postgres(found[-1].parent, folder, user)
    try:
        cluster.run("initdb", "-A", "trust", "-U", "surety", "--no-sync", "-E", "UTF8", "--locale=C")
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder)
