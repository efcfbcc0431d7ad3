"""`make audit`: known vulnerabilities in the pinned dependencies, by pip-audit. Exit 1 if there are any.

Without the network nothing can be said: it says that, and passes. pip-audit itself calls requirements clean of which
it has found none in its database; here only those count that it has looked up.
"""

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PIP_AUDIT = "pip-audit==2.10.1"
LIMIT = 300  # seconds


def audit(*pinned: Path) -> tuple[int, str]:
    """(exit code, what to say) of the files of `pinned` versions."""
    command = [Path(sys.executable).parent / "uv", "tool", "run", "--quiet", PIP_AUDIT]
    options = [part for path in pinned for part in ("--requirement", path)]
    options += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "15", "--format", "json"]
    try:
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return 0, f"audit: skipped, the database of vulnerabilities has not answered within {LIMIT} s"
    return verdict(done.stdout, done.stderr)


def verdict(report: str, errors: str) -> tuple[int, str]:
    """What pip-audit's JSON `report` means; `errors` is what it wrote beside it."""
    try:
        dependencies = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        said = errors.strip().splitlines()
        return 0, f"audit: skipped, pip-audit could not run here: {said[-1] if said else 'it says nothing'}"
    looked_up = [one for one in dependencies if "vulns" in one]
    if not looked_up:
        return 0, "audit: skipped, the database of vulnerabilities cannot be reached from here"
    lines = [
        f"{one['name']} {one['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in looked_up
        for flaw in one["vulns"]
    ]
    lines += [f"audit: {len(lines)} known vulnerabilities in {len(looked_up)} of {len(dependencies)} dependencies"]
    return int(len(lines) > 1), "\n".join(lines)


if __name__ == "__main__":
    code, said = audit(PROJECT / "requirements.txt", PROJECT / "constraints-cuda.txt")
    print(said)
    sys.exit(code)
