"""The choice of torch's source, proven by a real build against a stand-in for the CPU index on loopback."""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import re
import threading
import uuid
import zipfile
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from scripts import supply
from scripts.base import bootstrap
from scripts.builder import Build, run_build
from scripts.engine import Engine
from scripts.image import build_image, describe_build, tag_of
from scripts.settings import Settings
from scripts.supply import CPU_LOCK, REQUIREMENTS, choose, survey
from tests.provision.machines import require_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import docker

    from tests.conftest import LabProcess

TAG = "pytorch-jupyter-test:index"
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}


def tiny_wheel(folder: Path, package: str, version: str, machine: str) -> None:
    """A wheel that installs one module, which says where it came from."""
    name = f"{package}-{version}-cp313-cp313-manylinux_2_28_{machine}.whl"
    info = f"{package}-{version}.dist-info"
    files = {
        f"{package}/__init__.py": f"__version__ = {version!r}\norigin = 'the stand-in index'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp313-cp313-manylinux_2_28_{machine}\n",
    }
    digests = {path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for path, text in files.items()}
    record = "".join(f"{path},sha256={digest.decode().rstrip('=')},\n" for path, digest in digests.items())
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            wheel.writestr(path, text)


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; a directory listing is a package page."""

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def stand_in_index(tmp_path: Path, engine: docker.DockerClient) -> Iterator[str]:
    """An index on loopback with the locked torch and torchvision as tiny CPU wheels."""
    machine = MACHINE[engine.version()["Arch"]]
    lock = (REQUIREMENTS / "torch-cpu.txt").read_text()
    for package, version in re.findall(r"^(\w+)==(\S+)", lock, re.MULTILINE):
        (tmp_path / package).mkdir(exist_ok=True)
        tiny_wheel(tmp_path / package, package, version, machine)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietFiles, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_answering_cpu_index_is_chosen_and_reaches_the_build(
    stand_in_index: str, engine: docker.DockerClient, new_lab: object
) -> None:
    """With a CPU index that has the locked wheel, the image's torch is the one from there."""
    assert new_lab
    settings = Settings.load({**os.environ, "TORCH_INDEX_URL": stand_in_index, "TORCH_SOURCE": "auto"})
    ours = Engine()
    if not ours.image(tag_of("cpu")):
        build_image(ours, settings, "cpu")
    decision = choose(settings, survey(settings, ours))
    base = (ours.image(tag_of("cpu")) or pytest.fail("no image")).labels["io.github.pytorch-jupyter.base"]
    run_build(replace(describe_build("cpu", base, decision.torch_lock), tag=TAG), settings)
    try:
        code = "import torch; print(torch.__version__, torch.origin)"
        got = engine.containers.run(TAG, ["python", "-c", code], remove=True).decode().strip()
    finally:
        engine.images.remove(TAG, force=True)
    assert decision.torch_lock == CPU_LOCK, f"got {decision}"
    expected = f"{supply.locked_cpu_torch(REQUIREMENTS / 'torch-cpu.txt')} the stand-in index"
    assert got == expected, f"got {got}, expected {expected}"


def test_a_base_that_is_bootstrapped_again_is_the_same(tmp_path: Path) -> None:
    """So that the engine finds what was built upon it, gigabytes, instead of building it again."""
    require_root("mmdebstrap")
    archives = [tmp_path / name for name in ("first.tar", "second.tar")]
    for archive in archives:
        bootstrap(archive, mirror=Settings.load(os.environ).debian_mirror)
    digests = {hashlib.sha256(archive.read_bytes()).hexdigest() for archive in archives}
    assert len(digests) == 1, f"got {digests}"


def test_nothing_of_the_hosts_network_settings_is_in_the_image(engine: docker.DockerClient, lab: object) -> None:
    """History and environment of the image name neither the host's mirror nor its CA."""
    assert lab
    image = engine.images.get(tag_of("cpu"))
    text = str(image.history()) + str(image.attrs["Config"])
    values = [os.environ.get(key, "") for key in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "HTTPS_PROXY", "SSL_CERT_FILE")]
    found = [value for value in values if value and value in text]
    assert found == [], f"found {found}"


def test_proxy_mirror_and_ca_reach_a_build_and_stay_out_of_its_layers(
    tmp_path: Path, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build step sees the host's proxy, index and CA; history and configuration of the image hold none of them."""
    ca = tmp_path / "ca.pem"
    ca.write_text("a company's certificate\n")
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(
        f"FROM {tag_of('cpu')}\nUSER root\n"
        "RUN --mount=type=secret,id=net --mount=type=secret,id=ca . /run/secrets/net"
        " && (echo $HTTPS_PROXY; echo $UV_DEFAULT_INDEX; cat /run/secrets/ca) >/seen"
        f" # {uuid.uuid4()}: not from a cache\n"
    )
    monkeypatch.setenv("HTTPS_PROXY", "http://someone:password@127.0.0.1:9")
    monkeypatch.setenv("PIP_INDEX_URL", "https://someone:password@mirror.example/simple")
    settings = Settings.load({"CA_BUNDLE": str(ca)})
    context = tmp_path / "context"
    run_build(Build(dockerfile=context / "Dockerfile", context=context, tag=TAG, arguments={}, labels={}), settings)
    try:
        got = engine.containers.run(TAG, ["cat", "/seen"], remove=True).decode().splitlines()
        image = engine.images.get(TAG)
        recorded = str(image.history()) + str(image.attrs)
    finally:
        engine.images.remove(TAG, force=True)
    expected = [os.environ["HTTPS_PROXY"], os.environ["PIP_INDEX_URL"], "a company's certificate"]
    assert got == expected, f"got {got}"
    assert "password" not in recorded, "the image's record holds a password"


def test_proxy_mirror_and_ca_reach_the_running_container(new_lab: Callable[[], LabProcess]) -> None:
    """Dataset downloads and %pip see the host's proxy and index, and the CA as a readable file."""
    lab = new_lab()
    ca = lab.state_dir.parent / "ca.pem"
    ca.write_text("a company's certificate")
    lab.start(HTTPS_PROXY="http://proxy.example:3128", PIP_INDEX_URL="https://mirror.example/simple", CA_BUNDLE=str(ca))
    names = ["HTTPS_PROXY", "PIP_INDEX_URL", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"]
    got = lab.python(f"import os; print([os.environ[n] for n in {names}], open(os.environ['PIP_CERT']).read())")
    lab.remove()
    inside = "/etc/lab/ca.crt"
    values = ["http://proxy.example:3128", "https://mirror.example/simple", inside, inside, inside]
    assert got == f"{values} a company's certificate", f"got {got}"
