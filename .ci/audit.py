"""``make audit``: known vulnerabilities of the installed dependencies, by pip-audit.

Fails on every one that ``audit.toml`` does not accept with a reason, and where the advisory service does not know the
version of a package that the project names. A service that cannot be reached, or knows nothing at all, fails nothing,
since that says nothing about the project; the output says what was not audited.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import Distribution, distributions, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = "surety"
ACCEPTED = Path(__file__).with_name("audit.toml")
PIP_AUDIT = (
    sys.executable, "-m", "pip_audit",
    "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--desc", "off", "--aliases", "on",
    "--requirement",
)  # fmt: skip
"""Gets the file of requirements as the last argument."""
UNREACHABLE = ("Could not connect", "ConnectionError", "Max retries exceeded", "timed out", "ServiceError", "HTTPError")
"""What pip-audit writes when the service does not answer, or not with advisories."""


def main() -> int:
    """Run pip-audit; 0, 1 for vulnerabilities that are not accepted and the like, 2 if pip-audit itself failed."""
    accepted = read_accepted(ACCEPTED)
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "requirements.txt")
        listed.write_text("".join(f"{one}\n" for one in pinned(distributions())))
        run = subprocess.run([*PIP_AUDIT, str(listed)], capture_output=True, text=True, check=False)
    try:
        report = json.loads(run.stdout)
    except json.JSONDecodeError:
        if any(sign in run.stderr for sign in UNREACHABLE):
            print("audit: NOT AUDITED: the advisory service could not be reached")
            return 0
        print(run.stderr, file=sys.stderr)
        return 2
    lines, failed = judge(report, accepted, named())
    print("\n".join(lines))
    return int(failed)


def read_accepted(path: Path) -> dict[str, str]:
    """Reasons by advisory id; raises ValueError for one without a reason."""
    accepted: dict[str, str] = tomllib.loads(path.read_text())["accepted"]
    for name, reason in accepted.items():
        if not reason.strip():
            raise ValueError(f"{path}: {name} is accepted without a reason")
    return accepted


def pinned(installed: Iterable[Distribution]) -> list[str]:
    """All but the project; local versions (2.13.0+cpu) as the public ones, which have the advisories."""
    found = {canonicalize_name(one.name): Version(one.version).public for one in installed}
    return [f"{name}=={version}" for name, version in sorted(found.items()) if name != PROJECT]


def named() -> set[str]:
    """The packages that the project itself names, with all its extras."""
    return {canonicalize_name(Requirement(one).name) for one in requires(PROJECT) or ()}


def judge(
    report: Mapping[str, Any], accepted: Mapping[str, str], needed: Collection[str]
) -> tuple[list[str], bool]:
    """What to print about pip-audit's report, and whether something in it is not accepted.

    Nor is it that the service knows other packages, but not the version of one that is ``needed``.
    """
    lines, failed, used = [], False, set()
    skipped = [one["name"] for one in report["dependencies"] if "skip_reason" in one]
    for one in report["dependencies"]:
        for found in one.get("vulns", []):
            names = [found["id"], *found["aliases"]]
            reason = next((accepted[name] for name in names if name in accepted), None)
            used |= set(names) & set(accepted)
            failed |= reason is None
            fixed = f", fixed in {', '.join(found['fix_versions'])}" if found["fix_versions"] else ""
            verdict = "VULNERABLE" if reason is None else f"accepted ({reason})"
            lines.append(f"audit: {one['name']} {one['version']}: {' '.join(names)}{fixed}: {verdict}")
    audited = len(report["dependencies"]) - len(skipped)
    if audited:
        lines += [f"audit: {name} is accepted but was not found: remove it" for name in accepted if name not in used]
        unknown = sorted(set(skipped) & set(needed))
        lines += [f"audit: {name}: the advisory service does not know the installed version" for name in unknown]
        failed |= bool(unknown)
    if skipped:
        lines.append(f"audit: NOT AUDITED, unknown to the advisory service: {' '.join(skipped)}")
    lines.append(f"audit: {audited} of {len(report['dependencies'])} installed packages were audited")
    return lines, failed


if __name__ == "__main__":
    sys.exit(main())
