"""`make run-local`: the same server, locks and notebooks in a venv, for a machine without an engine.

Runs in the foreground until Ctrl-C. Nothing isolates it: the notebooks may do what you may do.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from scripts import health, ports, state, supply, tls
from scripts.builder import index_settings
from scripts.console import LabError, run, say
from scripts.content import content_hash
from scripts.host import Identity
from scripts.image import DOCKER
from scripts.lab import url_host
from scripts.settings import ROOT, Settings
from scripts.spec import CA_VARIABLES, lab_url, lesson_environment, tls_environment
from scripts.tools import UV

if TYPE_CHECKING:
    from scripts.state import State
    from scripts.tls import Certificate

PYTHON = "3.13"  # the locks' and the image's
# The server's files and their places below an environment, as the Dockerfile copies them.
SERVER_FILES = {
    "jupyter_server_config.py": "etc/jupyter",
    "page_config.json": "etc/jupyter/labconfig",
    "overrides.json": "share/jupyter/lab/settings",
    "lab_server": f"lib/python{PYTHON}/site-packages",
}


def main() -> int:
    """Prepare the environment, start the server, print its URL, stay until it ends."""
    settings = Settings.load(os.environ)
    me = Identity(os.getuid(), os.getgid(), Path.home())  # nothing here changes user: root's lab is root's
    place = state.locate(settings, me)
    state.ensure_state(place, me)
    with state.lock(place):
        state.ensure_workspace(settings.workspace, me)
        for name in state.seed(ROOT / "notebooks", settings.workspace, me):
            say(f"sample: {settings.workspace / name}")
        certificate = tls.ensure_certificate(settings, place, me)
        venv = ensure_environment(settings, place)
    bind = settings.bind or "127.0.0.1"
    ports.require_free(bind, settings.port, lambda _port: None)
    return _serve(settings, place, venv, bind, certificate)


def ensure_environment(settings: Settings, place: State) -> Path:
    """Install the image's locks into a venv below the state directory, once per content; return the venv."""
    venv = place.root / "local-venv"
    stamp = venv / ".content"
    wanted = content_hash(DOCKER, settings.torch_source)
    if stamp.exists() and stamp.read_text() == wanted:
        return venv
    lock = _torch_lock(settings)
    say(f"installing the lab into {venv} (torch: {lock}) …")
    environ = {**os.environ, **index_settings(os.environ), "VIRTUAL_ENV": str(venv)}
    if not (venv / "bin/python").exists():
        hint = f"install Python {PYTHON} (python.org, apt, brew, pyenv), then the same command"
        _uv(["venv", "--quiet", "--clear", f"--python={find_python()}", str(venv)], environ, hint)
    hint = "behind a proxy set HTTPS_PROXY, PIP_INDEX_URL or SSL_CERT_FILE; make doctor checks this machine"
    for arguments in install_arguments(lock, settings.torch_index_url):
        _uv(["pip", "install", "--no-deps", "--compile-bytecode", *arguments], environ, hint)
    for name, folder in SERVER_FILES.items():
        (venv / folder).mkdir(parents=True, exist_ok=True)
        if (DOCKER / name).is_dir():
            shutil.copytree(DOCKER / name, venv / folder / name, dirs_exist_ok=True)
        else:
            shutil.copy(DOCKER / name, venv / folder)
    stamp.write_text(wanted)
    return venv


def find_python() -> str:
    """The Python to use: pyenv's, which uv does not look for, else uv finds one on PATH or downloads it."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    return next((str(path) for path in sorted(pyenv.glob(f"{PYTHON}.*/bin/python"))), PYTHON)


def install_arguments(lock: str, torch_index: str) -> list[list[str]]:
    """What uv installs, in order: the server's lock, then torch's from its own index."""
    requirements = DOCKER / "requirements"
    source = f"--default-index={torch_index}" if lock == supply.CPU_LOCK else "--require-hashes"
    return [
        ["--require-hashes", f"--requirement={requirements / 'server.txt'}"],
        [source, f"--requirement={requirements / f'torch-{lock}.txt'}"],
    ]


def _torch_lock(settings: Settings) -> str:
    """The lock for this machine; a Mac's wheels on PyPI are CPU-only already."""
    if sys.platform == "darwin":
        return supply.PYPI_LOCK
    if settings.torch_source != "auto":
        return {"cpu-index": supply.CPU_LOCK, "pypi": supply.PYPI_LOCK}[settings.torch_source]
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return supply.PYPI_LOCK if supply.cpu_index_problem(settings, machine) else supply.CPU_LOCK


def _uv(arguments: list[str], environ: dict[str, str], hint: str) -> None:
    if subprocess.run([str(UV), *arguments], env=environ, stdout=2, check=False).returncode:
        raise LabError("the lab's environment could not be installed; uv's words stand above", hint=hint)


def server_environment(settings: Settings, place: State, venv: Path, *, bind: str, runtime: str) -> dict[str, str]:
    """The server's variables: the names that the container's have, with this machine's values.

    Jupyter's own settings live in the state directory's home, as in the container, not in the user's ~/.jupyter.
    `runtime` is a short, private folder: kernels' Unix sockets lie there, whose paths may have 107 characters.
    """
    ca = dict.fromkeys(CA_VARIABLES, str(settings.ca_bundle)) if settings.ca_bundle else {}
    return {
        **ca,
        **lesson_environment(settings, settings.cifar10_dir),
        "PATH": f"{venv / 'bin'}:{os.environ.get('PATH', '')}",
        "VIRTUAL_ENV": str(venv),
        "LAB_TOKEN_FILE": str(place.token_file),
        "LAB_WORKSPACE": str(settings.workspace),
        "LAB_IP": bind,
        "LAB_PORT": str(settings.port),
        "LAB_IDLE_TIMEOUT": str(settings.idle_timeout),
        "JUPYTER_CONFIG_DIR": str(place.home / ".jupyter"),
        "JUPYTER_RUNTIME_DIR": runtime,
        "TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR": "1",  # as in the image: never start without the settings
    }


def _serve(settings: Settings, place: State, venv: Path, bind: str, certificate: Certificate | None) -> int:
    """Run the server in the foreground; Ctrl-C, SIGTERM or a closed terminal ends it and its kernels."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    log = place.root / "local.log"
    with log.open("w") as output, tempfile.TemporaryDirectory(prefix="lab-") as runtime:
        environ = {
            **os.environ,
            **server_environment(settings, place, venv, bind=bind, runtime=runtime),
            **tls_environment(certificate, place.tls),
        }
        server = subprocess.Popen([str(venv / "bin/jupyter-lab")], env=environ, stdout=output, stderr=output,
                                  stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        try:
            return _attend(server, settings, place, certificate, bind=bind, log=log)
        except KeyboardInterrupt:
            say("stopping …")
            return 0
        finally:
            server.terminate()
            server.wait(timeout=30)


def _attend(  # noqa: PLR0913 - each is one thing that it tells or waits for
    server: subprocess.Popen[bytes],
    settings: Settings,
    place: State,
    certificate: Certificate | None,
    *,
    bind: str,
    log: Path,
) -> int:
    """Wait until the server answers, print its URL, stay until it ends; return its exit code."""
    asked = health.Server(health.reachable(bind), settings.port, certificate.path if certificate else None)
    if not asked.wait_until_answers(timeout=settings.wait_timeout, alive=lambda: server.poll() is None):
        for line in log.read_text().splitlines()[-20:]:
            say(f"  | {line}")
        raise LabError("the server did not start", hint=f"its last lines stand above, all of them in {log}")
    say(f"the lab is ready (log: {log}); Ctrl-C ends it. Open:")
    if certificate:
        say(f"HTTPS; the certificate's SHA-256 fingerprint: {certificate.fingerprint}")
    host, token = settings.url_host or url_host(bind), state.read_token(place)
    print(lab_url(host=host, port=settings.port, token=token, secure=certificate is not None), flush=True)
    return server.wait()


if __name__ == "__main__":
    run(main)
