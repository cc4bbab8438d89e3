"""`make audit`: the known vulnerabilities of every locked package, from OSV; exit code 1 when there are any.

AUDIT_URL names another service that speaks OSV's interface (https://google.github.io/osv.dev/post-v1-query).
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from scripts.console import LabError, run, say
from scripts.settings import ROOT
from scripts.supply import CPU_LOCK, REQUIREMENTS
from scripts.tools import UV, VENV

SERVICE = "https://api.osv.dev/v1/query"


def main() -> int:
    """Ask for every lock, print what is known."""
    service = os.environ.get("AUDIT_URL") or SERVICE
    known: dict[tuple[str, str, str], list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for lock in locks(Path(folder)):
            say(f"asking {service} about {lock.name} …")
            for package in audit(lock, service):
                for found in package.get("vulns", []):
                    known[package["name"], package["version"], found["id"]] = found["fix_versions"]
    for (name, version, identity), fixed in sorted(known.items()):
        print(f"{name} {version}  {identity}  fixed in {', '.join(fixed) or 'no version yet'}")
    say(f"{len(known)} known vulnerabilities")
    return 1 if known else 0


def locks(folder: Path) -> list[Path]:
    """Every lock as a requirements file: the image's, and the tools' exported.

    Torch's CPU wheels are left out: their lock holds the versions of the CUDA 13 lock, with a suffix unknown to OSV.
    """
    tools = folder / "uv.lock"
    export = [str(UV), "export", "--quiet", "--frozen", "--no-emit-project", "--all-groups", f"--output-file={tools}"]
    subprocess.run(export, cwd=ROOT, check=True)
    left_out = {f"torch-{CPU_LOCK}.txt", "overrides.txt"}
    return [*(path for path in sorted(REQUIREMENTS.glob("*.txt")) if path.name not in left_out), tools]


def audit(lock: Path, service: str) -> list[dict[str, Any]]:
    """Ask about one lock, without installing or resolving anything.

    Raises:
        LabError: the service does not answer.

    """
    argv = [str(VENV / "bin/pip-audit"), "--requirement", str(lock), "--disable-pip", "--no-deps", "--format=json",
            "--progress-spinner=off", "--vulnerability-service=osv", f"--osv-url={service}"]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except ValueError:
        last = done.stderr.strip().rpartition("\n")[2]
        hint = "AUDIT_URL=https://… names a service that speaks OSV's interface; a proxy goes into HTTPS_PROXY"
        raise LabError(f"{service} could not be asked: {last}", hint=hint) from None


if __name__ == "__main__":
    run(main)
