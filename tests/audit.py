"""`make audit`: the pinned dependencies against the registry's advisories.

Fails on a known vulnerability, and where only some could be looked up. Where the registry serves no advisories at all
(a mirror usually does not) it says so and passes: a skipped check is not a clean one, but no reason to stop either.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PIP_AUDIT = "pip-audit==2.10.1"
_SECONDS = 600


def main() -> int:
    uv = Path(sys.executable).parent / "uv"
    command = [
        str(uv), "tool", "run", PIP_AUDIT, "--requirement", str(ROOT / "constraints.txt"),
        "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        sys.stderr.write(f"the audit did not run: {done.stderr.strip()[-500:]}\n")
        return 1
    passed, words = verdict(dependencies)
    sys.stdout.write(f"{words}\n")
    return 0 if passed else 1


def verdict(dependencies: Sequence[dict[str, Any]]) -> tuple[bool, str]:
    """Whether to go on, and what was found; from pip-audit's JSON."""
    skipped = [entry["name"] for entry in dependencies if "skip_reason" in entry]
    found = [
        f"{entry['name']} {entry['version']}: {', '.join(flaw['id'] for flaw in entry['vulns'])}"
        for entry in dependencies
        if entry.get("vulns")
    ]
    if found:
        return False, "known vulnerabilities: " + "; ".join(found)
    if len(skipped) == len(dependencies):
        return True, f"NOT AUDITED: the registry here answers no question about advisories ({len(skipped)} pins)"
    if skipped:
        return False, f"not looked up, the others are clean: {', '.join(skipped)}"
    return True, f"{len(dependencies)} pinned dependencies, no known vulnerability"


if __name__ == "__main__":
    sys.exit(main())
