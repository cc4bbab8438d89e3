"""The base image without a registry: Debian's own packages, bootstrapped and imported."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from scripts import host
from scripts.console import LabError, ask, say
from scripts.spec import PROXIES
from scripts.supply import BOOTSTRAPPED_BASE

if TYPE_CHECKING:
    from scripts.engine import Engine
    from scripts.settings import Settings

SUITE = "trixie"
PUBLIC_MIRROR = "http://deb.debian.org/debian"
# The suite's release: no file is younger, so that the same packages are the same image, and what was built upon it is
# not built again.
EPOCH = "1754697600"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def bootstrap_argv(*, archive: Path, mirror: str) -> list[str]:
    """The mmdebstrap command that writes a minimal Debian to a tar archive.

    Documentation and translations are left out, as the official slim image does.
    """
    leave_out = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"]
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in leave_out]
    keep = "--dpkgopt=path-include=/usr/share/doc/*/copyright"  # licences must travel with the packages
    sources = [
        f"deb {mirror} {SUITE} main",
        f"deb {mirror} {SUITE}-updates main",
        f"deb {mirror}-security {SUITE}-security main",  # where every full mirror has it
    ]
    # The image keeps Debian's public address: a mirror's may carry a password.
    public = f"--customize-hook=sed -i 's|{mirror}|{PUBLIC_MIRROR}|' \"$1\"/etc/apt/sources.list"
    fixed = ["--variant=minbase", f"--keyring={KEYRING}", *options, keep, public]
    return ["mmdebstrap", *fixed, SUITE, str(archive), *sources]


def ensure_base(engine: Engine, settings: Settings) -> None:
    """Bootstrap the base image and import it; a failure leaves nothing behind.

    Raises:
        LabError: mmdebstrap is missing and cannot be installed, or it failed.

    """
    _ensure_mmdebstrap(no_install=settings.no_install)
    say(f"bootstrapping Debian {SUITE} from {settings.debian_mirror} …")
    with tempfile.TemporaryDirectory(prefix="pytorch-jupyter-") as folder:
        archive = Path(folder) / "base.tar"
        bootstrap(archive, mirror=settings.debian_mirror)
        engine.import_base(str(archive), BOOTSTRAPPED_BASE)


def bootstrap(archive: Path, *, mirror: str) -> None:
    """Write a minimal Debian to a tar archive; the same packages make the same bytes.

    Raises:
        LabError: mmdebstrap failed.

    """
    proxies = {key: os.environ[key] for key in PROXIES if os.environ.get(key)}
    command = bootstrap_argv(archive=archive, mirror=mirror)
    host.run_visibly(
        host.as_root(command, environ={**proxies, "SOURCE_DATE_EPOCH": EPOCH}),
        failure=f"mmdebstrap could not bootstrap Debian from {mirror}",
        hint="DEBIAN_MIRROR=http://your-mirror/debian, or BASE_IMAGE=registry/name:tag for a base of your own",
    )


def _ensure_mmdebstrap(*, no_install: bool) -> None:
    if host.find_program("mmdebstrap") and KEYRING.exists():
        return
    by_hand = "sudo apt-get install mmdebstrap debian-archive-keyring, or BASE_IMAGE=registry/name:tag"
    message = "no registry answers, and mmdebstrap, which makes the base image instead, is missing"
    if no_install or not host.is_debian() or not host.can_become_root():
        raise LabError(message, hint=by_hand)
    if not ask(f"{message}. Install it now (as root)?"):
        raise LabError(message, hint=by_hand)
    host.apt_install(["mmdebstrap", "debian-archive-keyring"])
