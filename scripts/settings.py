"""Every setting of the lab, from the environment or the Make command line, validated in one place.

Standard library only: `make help` and `make doctor` run before the tools are installed.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.console import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Self

ROOT = Path(__file__).resolve().parent.parent
UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def port(text: str) -> int:
    """A TCP port, 1 to 65535."""
    if re.fullmatch(r"\d{1,5}", text, re.ASCII) and 1 <= int(text) <= 65535:
        return int(text)
    raise ValueError("a port from 1 to 65535")


def size(text: str) -> int:
    """A size in bytes, written as Docker does: 512m, 8g, 1.5g."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", text.lower(), re.ASCII)
    if found and float(found[1]) > 0:
        return int(float(found[1]) * UNITS[found[2]])
    raise ValueError("a size such as 512m or 8g")


def memory(text: str) -> int:
    """A memory limit in bytes; below 512 MiB the server and one kernel with torch do not fit."""
    limit = size(text)
    if limit < 512 << 20:
        raise ValueError("at least 512m")
    return limit


def cpus(text: str) -> float:
    """A number of CPUs, fractions allowed."""
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII) and float(text) >= 0.1:
        return float(text)
    raise ValueError("a number of CPUs such as 2 or 1.5")


def seconds(text: str) -> int:
    """A duration in seconds, written as 90, 90s, 30m or 8h; 0 means never."""
    found = re.fullmatch(r"(\d{1,9})([smh]?)", text.lower(), re.ASCII)
    if found:
        return int(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]
    raise ValueError("a duration such as 90s, 30m or 8h (0: never)")


def address(text: str) -> str:
    """An IP address of this host to listen on."""
    if text == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("an IP address such as 127.0.0.1 or 0.0.0.0") from None


def matching(pattern: str, words: str) -> Callable[[str], str]:
    """Make a parser for text that is taken as it is; `words` say what the pattern admits."""

    def parse(text: str) -> str:
        if re.fullmatch(pattern, text, re.ASCII):
            return text
        raise ValueError(words)

    return parse


# A container name as the engine accepts it.
name = matching(
    r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,62}",
    "2 to 63 letters, digits, '_', '.' or '-', beginning with a letter or digit",
)
# A host name or address as it stands in a URL.
hostname = matching(r"[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]+\]", "a host name or an IP address (IPv6 in brackets)")
# An image reference: [registry/]name[:tag][@digest].
reference = matching(
    r"[a-z0-9][A-Za-z0-9._/:@-]{0,510}", "an image reference such as registry.example.com/debian:trixie-slim"
)
# All GPUs, or a list of indexes and UUIDs, in the words of nvidia-smi -L.
gpus = matching(
    r"all|(\d{1,3}|(GPU|MIG)-[0-9a-f-]{36})(,(\d{1,3}|(GPU|MIG)-[0-9a-f-]{36}))*",
    "'all', or indexes and UUIDs such as 0,1 (nvidia-smi -L lists them)",
)


def url(text: str) -> str:
    """An http(s) URL, without its trailing slash."""
    if re.fullmatch(r"https?://[^\s'\"]+", text):
        return text.rstrip("/")
    raise ValueError("a URL that begins with http:// or https://")


def folder(text: str) -> Path:
    """A path, made absolute; a newline or NUL cannot be mounted."""
    if re.search(r"[\0\n\r]", text):
        raise ValueError("a path without line breaks")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ValueError("a path; what follows '~' must be a user of this machine") from None
    return Path(os.path.abspath(path))  # noqa: PTH100 - keeps symbolic links as the user wrote them


def readable_file(text: str) -> Path:
    """An existing, readable file, made absolute."""
    path = folder(text)
    if path.is_file() and os.access(path, os.R_OK):
        return path
    raise ValueError("a file that exists and can be read")


def readable_folder(text: str) -> Path:
    """An existing folder that can be listed, made absolute."""
    path = folder(text)
    if path.is_dir() and os.access(path, os.R_OK | os.X_OK):
        return path
    raise ValueError("a folder that exists and can be read")


def flag(text: str) -> bool:
    """A switch: 1, true, yes or on; 0, false, no or off."""
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError("1 or 0")


def one_of(*words: str) -> Callable[[str], str]:
    """Make a parser for a fixed choice of words."""

    def parse(text: str) -> str:
        if text in words:
            return text
        raise ValueError("one of " + ", ".join(words))

    return parse


def setting(parse: Callable[[str], Any], default: str | None, help_text: str, *also: str) -> Any:
    """Describe a setting: its parser, its default as the user would type it, its help, other variables for it."""
    return field(metadata={"parse": parse, "default": default, "help": help_text, "also": also})


class FromEnvironment:
    """A dataclass of settings that reads itself from the environment."""

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Read every setting from the environment; an empty value counts as not set.

        Raises:
            LabError: a value is not valid; the message names the variable and the value.

        """
        return cls(**{one.name: _value(one, environ) for one in fields(cls)})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Settings(FromEnvironment):
    """The validated settings; a field's name in capitals is the variable that sets it. None: not set."""

    port: int = setting(port, "8888", "host port of the lab")
    bind: str | None = setting(address, None, "address to listen on (0.0.0.0; run-local: 127.0.0.1)")
    url_host: str | None = setting(hostname, None, "host name in the printed URL (this machine's name)")
    workspace: Path = setting(folder, str(ROOT / "workspace"), "your notebooks and data (./workspace)")
    state_dir: Path | None = setting(folder, None, "token, home and settings (~/.local/share/pytorch-jupyter)")
    cifar10_dir: Path | None = setting(readable_folder, None, "CIFAR-10 that you have already, for the first notebook")
    fast: bool = setting(flag, "0", "1: the first notebook uses a tenth of its data")
    tls: str = setting(one_of("off", "self-signed"), "off", "self-signed: HTTPS with a certificate made here")
    tls_cert: Path | None = setting(readable_file, None, "HTTPS with this certificate (PEM, its chain below it)")
    tls_key: Path | None = setting(readable_file, None, "the private key of TLS_CERT, without a passphrase")
    container: str = setting(name, "pytorch-jupyter", "name of the container; another name is another lab")
    memory: int | None = setting(memory, None, "memory limit, such as 8g (none)")
    cpus: float | None = setting(cpus, None, "CPU limit, such as 2; thread counts follow it (all)")
    shm_size: int = setting(size, "2g", "shared memory for DataLoader workers")
    cuda: str = setting(one_of("auto", "12", "13"), "auto", "run-gpu: torch's CUDA; auto: what the driver can run")
    gpus: str = setting(gpus, "all", "run-gpu: which GPUs, such as 0,1")
    idle_timeout: int = setting(seconds, "0", "stop kernels idle for so long, such as 8h (never)")
    wait_timeout: int = setting(seconds, "90", "how long to wait for the lab to answer")
    image: str | None = setting(reference, None, "a ready image to run instead of building one")
    base_image: str | None = setting(reference, None, "base image; 'debian' bootstraps one (whichever answers)")
    torch_source: str = setting(
        one_of("auto", "cpu-index", "pypi"), "auto", "where torch comes from: auto, cpu-index or pypi"
    )
    torch_index_url: str = setting(url, "https://download.pytorch.org/whl/cpu", "index of CPU-only torch wheels")
    debian_mirror: str = setting(url, "http://deb.debian.org/debian", "mirror for Debian packages")
    ca_bundle: Path | None = setting(
        readable_file,
        None,
        "your company's CA certificates (also read from SSL_CERT_FILE)",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "PIP_CERT",
        "CURL_CA_BUNDLE",
    )
    no_install: bool = setting(flag, "0", "1: never install or start anything on this machine")


def _value(one: Field[Any], environ: Mapping[str, str]) -> Any:
    names = (one.name.upper(), *one.metadata["also"])
    variable = next((each for each in names if environ.get(each)), names[0])
    text = environ.get(variable) or one.metadata["default"]
    if text is None:
        return None
    try:
        return one.metadata["parse"](text)
    except ValueError as error:
        raise LabError(
            f"{variable}={text!r} is not valid: {one.metadata['help']}",
            hint=f"{variable} takes {error}; 'make help' lists every setting",
        ) from error


def table(settings: type[Any]) -> str:
    """A class's settings as `make help` shows them: variable, default, meaning."""
    rows = []
    for one in fields(settings):
        default = one.metadata["default"]
        shown = f" [{default}]" if default and one.name != "workspace" else ""
        rows.append(f"  {one.name.upper():<16} {one.metadata['help']}{shown}")
    return "\n".join(rows)
