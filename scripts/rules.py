"""The project's own rules, as part of `make lint`: what no general linter knows."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from scripts.console import LabError, run
from scripts.settings import ROOT

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_DOCKERFILE = 100


def main() -> None:
    """Check every rule.

    Raises:
        LabError: one is broken; the message names the first places.

    """
    broken = [*package_rules(), *dockerfile_rules(), *notebook_rules()]
    if broken:
        raise LabError("; ".join(broken), hint="mend them; scripts/rules.py says what each rule is for")


def package_rules() -> list[str]:
    """docker/ is a folder, never a package: with an __init__.py it would hide the SDK from `import docker`."""
    return ["docker/__init__.py must not exist"] if (ROOT / "docker/__init__.py").exists() else []


def dockerfile_rules() -> list[str]:
    """Each instruction that does something says why in a comment above it, and the file fits on two screens."""
    return [problem for path in sorted(ROOT.glob("docker/*.Dockerfile")) for problem in _dockerfile_problems(path)]


def _dockerfile_problems(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    problems = [f"{path.name} has {len(lines)} lines"] if len(lines) > LONGEST_DOCKERFILE else []
    if any(line.startswith("# syntax=") for line in lines):
        problems.append(f"{path.name}: '# syntax=' pulls a frontend from a registry")
    for number, line in enumerate(lines):
        block = _block_above(lines, number)
        if re.match(r"(RUN|HEALTHCHECK|ENV) ", line) and not any(each.startswith("#") for each in block):
            problems.append(f"{path.name}:{number + 1} has no comment that says why")
    return problems


def _block_above(lines: list[str], number: int) -> list[str]:
    """The lines between an instruction and the last empty line above it."""
    start = number
    while start > 0 and lines[start - 1]:
        start -= 1
    return lines[start:number]


def notebook_rules() -> list[str]:
    """Notebooks are committed without outputs: diffs stay readable and nobody's data leaks."""
    notebooks = sorted(ROOT.glob("notebooks/*.ipynb"))
    return [f"{path.name} has outputs" for path in notebooks if _has_outputs(json.loads(path.read_text()))]


def _has_outputs(notebook: dict[str, Any]) -> bool:
    return any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])


if __name__ == "__main__":
    run(main)
