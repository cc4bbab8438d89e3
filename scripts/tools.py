"""Install the host tools into .venv, from uv.lock, with or without uv on the machine.

Standard library only: the Makefile runs it with the system's Python. `python3 scripts/tools.py [dev]`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

# Run as a file, before anything is installed: make the package importable.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import host
from scripts.builder import index_settings
from scripts.console import LabError, ask, run, say
from scripts.settings import ROOT, Settings

VENV = (ROOT / ".venv").resolve()  # on a VM a link: its checkouts share one
UV = VENV / "bin/uv"  # one of the tools, for make run-local and make lock
UV_LOCK = ROOT / "docker" / "requirements" / "uv.txt"


def main() -> None:
    """Make the environment and bring it in line with the lock; the stamp tells make when."""
    groups = sys.argv[1:]
    Settings.load(os.environ)  # a wrong setting is told here, in our words, rather than by pip in its own
    uv = shutil.which("uv") or (str(UV) if os.access(UV, os.X_OK) else None)
    say("installing the tools into .venv/ …")
    if not uv or not (VENV / "bin/python").exists():
        _make_venv(uv)
    _install(uv or _uv_from_pip(), groups)
    (VENV / f".stamp{'-dev' if groups else ''}").touch()


def _make_venv(uv: str | None) -> None:
    if uv and Path(uv) != UV:
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)])
        return
    if not _has_ensurepip():
        _install_venv_package()
    _run([sys.executable, "-m", "venv", "--clear", str(VENV)])


def _has_ensurepip() -> bool:
    """Debian keeps ensurepip in python3-venv; without it `python3 -m venv` fails halfway."""
    found = subprocess.run([sys.executable, "-c", "import ensurepip, venv"], capture_output=True, check=False)
    return found.returncode == 0


def _install_venv_package() -> None:
    message = "Python's venv module is missing"
    by_hand = "sudo apt-get install python3-venv, then the same command"
    if Settings.load(os.environ).no_install or not host.is_debian() or not host.can_become_root():
        raise LabError(message, hint=by_hand)
    if not ask(f"{message}. Install python3-venv now (as root)?"):
        raise LabError(message, hint=by_hand)
    host.apt_install(["python3-venv"])


def _uv_from_pip() -> str:
    """Get uv itself by pip, pinned and hashed."""
    pip = [str(VENV / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run([*pip, "--require-hashes", "--requirement", str(UV_LOCK)])
    return str(UV)


def _install(uv: str, groups: list[str]) -> None:
    """Install by way of an export: `uv sync` insists on the lock's own index, an export takes the mirror's."""
    export = [uv, "export", "--quiet", "--frozen", "--no-emit-project", "--no-default-groups"]
    selected = [f"--group={group}" for group in groups]
    requirements = VENV / "requirements.txt"
    _run([*export, *selected, f"--output-file={requirements}"], cwd=ROOT)
    python = f"--python={VENV / 'bin/python'}"
    # pip's own way to say that a folder has the wheels and no index may be asked; uv knows only the option.
    links = os.environ.get("PIP_FIND_LINKS")
    folder = ["--no-index", f"--find-links={links}"] if links and os.environ.get("PIP_NO_INDEX") else []
    _run(
        [
            uv,
            "pip",
            "install",
            "--quiet",
            "--compile-bytecode",
            "--require-hashes",
            *folder,
            python,
            f"--requirement={requirements}",
        ]
    )


def _run(argv: list[str], *, cwd: Path | None = None) -> None:
    environ = {**os.environ, **index_settings(os.environ)}
    if subprocess.run(argv, cwd=cwd, env=environ, stdout=2, check=False).returncode:
        raise LabError(
            f"could not install the tools ({Path(argv[0]).name} failed; its words stand above)",
            hint="behind a proxy set HTTPS_PROXY, PIP_INDEX_URL or SSL_CERT_FILE; make doctor checks this machine",
        )


if __name__ == "__main__":
    run(main)
