"""The running service against its own OpenAPI document, by schemathesis: every operation, right and wrong requests.

Usage: ``python -m benchmarks.api_fuzz [--examples 150] [--passes 2]``. Starts the service itself, with short deadlines
and records. A pass sends the document's examples, its limits, random requests and chains of them, on all operations;
every answer must be below 500 and as the document says (status, media type, headers, schema), wrong requests must be
refused, what was deleted must be gone. Memory is read after each pass: it may grow in the first, which is the first
time that everything is used.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from models.records import record_of
from service.demo import running_service

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "results" / "api-fuzz.json"
UNCHECKED = "positive_data_acceptance"
"""A schema cannot say that a model exists, or that a file is an image of the model's size."""
SHOWN_CHARACTERS = 10_000
LEAST_CASES = 5000
GROWTH_MIB = 64.0
"""What memory may grow by between the first pass and the last."""
SETTINGS = {"records": "required", "records_deletion": "true", "default_deadline_ms": "300", "max_deadline_ms": "1000"}


def attack(url: str, report: Path, *options: str, examples: int, seed: int) -> dict[str, Any]:
    """Send one pass of requests.

    Parameters
    ----------
    url : str
        Of a running service.
    report : Path
        Where schemathesis writes its own.
    options : str
        More options of schemathesis, such as one that leaves out operations.
    examples : int
        Random requests to each operation, at most; there are some a limit and an example beside them.
    seed : int
        What they follow from.

    Returns
    -------
    dict
        The report: ``test_cases``, ``operations``, ``failures``, ``errors``, ...

    Raises
    ------
    RuntimeError
        If the service and its document do not agree, or the service died; the message shows the requests.
    """
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json",
        "--checks", "all", "--exclude-checks", UNCHECKED, "--continue-on-failure",
        "--max-examples", str(examples), "--seed", str(seed), "--workers", "1", "--request-timeout", "60",
        "--report", "json", "--report-json-path", str(report), *options,
    ]  # fmt: skip
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "benchmarks.api_formats", "PYTHONPATH": str(ROOT)}
    # The folder keeps what Hypothesis remembers of failures out of the project.
    done = subprocess.run(
        command, env=environment, cwd=report.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"schemathesis ended with status {done.returncode}\n{done.stdout[-SHOWN_CHARACTERS:]}")
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def resident_mib(url: str) -> float:
    """Of the service's process."""
    lines = httpx.get(f"{url}/metrics", timeout=60.0).text.splitlines()
    name = 'surety_device_memory_bytes{device="cpu",kind="resident"}'
    return float(next(line for line in lines if line.startswith(name)).rsplit(" ", 1)[1]) / 2**20


def statuses(url: str) -> Counter[str]:
    """How many requests were answered with each status."""
    counted: Counter[str] = Counter()
    for line in httpx.get(f"{url}/metrics", timeout=60.0).text.splitlines():
        if line.startswith("surety_requests_total{"):
            labels, value = line.rsplit(" ", 1)
            status = labels.split('status="')[1].split('"')[0]
            counted[status] += int(float(value))
    return counted


def measure(examples: int, passes: int) -> dict[str, Any]:
    """All passes against a service of our own; raises RuntimeError if something is wrong."""
    with tempfile.TemporaryDirectory() as folder, running_service(data_dir=folder, **SETTINGS) as url:
        begun, memory, reports = statuses(url), [resident_mib(url)], []
        for number in tqdm(range(passes), desc="passes"):
            report = attack(url, Path(folder) / "report.json", examples=examples, seed=number)
            reports.append(report)
            memory.append(resident_mib(url))
        answered = statuses(url) - begun
    cases = sum(report["test_cases"]["generated"] for report in reports)
    if cases < LEAST_CASES:
        raise RuntimeError(f"only {cases} cases; ask for more --examples or --passes")
    if memory[-1] - memory[1] > GROWTH_MIB:
        raise RuntimeError(f"memory grew by {memory[-1] - memory[1]:.0f} MiB after the first pass")
    return {
        "cases": cases, "operations": reports[-1]["operations"]["tested"], "failures": 0,
        "answers_by_status": dict(sorted(answered.items())),
        "resident_mib_before_and_after_each_pass": [round(value, 1) for value in memory],
        "growth_limit_mib": GROWTH_MIB, "settings": SETTINGS, "schemathesis": reports[-1]["schemathesis_version"],
    }  # fmt: skip


def main(words: list[str]) -> int:
    """Run and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=150, help="random requests to each operation in a pass")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args(words)
    found = measure(chosen.examples, chosen.passes)
    command = f"python -m benchmarks.api_fuzz --examples {chosen.examples} --passes {chosen.passes}"
    chosen.out.write_text(json.dumps({"command": command, **record_of("cpu"), "summary": found}, indent=1) + "\n")
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
