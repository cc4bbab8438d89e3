"""The lab over HTTPS: everything that works without works with it, and nothing weaker is spoken."""

from __future__ import annotations

import json
import re
import socket
import ssl
import warnings
from typing import TYPE_CHECKING

import httpx
import pytest
import trustme

from tests.conftest import wait_until
from tests.image.client import api, kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import LabProcess


@pytest.fixture(scope="module")
def secure(new_lab: Callable[[], LabProcess]) -> LabProcess:
    """A lab with a certificate of its own making."""
    lab = new_lab()
    lab.extra["TLS"] = "self-signed"
    lab.start()
    return lab


def trusting(lab: LabProcess) -> ssl.SSLContext:
    """What a browser has after its user compared the fingerprint: trust in this certificate, name and date checked."""
    return ssl.create_default_context(cafile=lab.state_dir / "run/tls/self-signed.pem")


def test_a_browser_that_trusts_it_gets_in(secure: LabProcess) -> None:
    """The printed URL is https; name, dates and chain hold, over HTTP/1.1."""
    url = secure.run("url").stdout.strip()
    assert url == f"https://localhost:{secure.port}/lab?token={secure.token}", f"got {url}"
    response = httpx.get(url, verify=trusting(secure), trust_env=False, follow_redirects=True, timeout=30)
    assert (response.status_code, response.http_version) == (200, "HTTP/1.1"), f"got {response}"


def test_a_kernel_works_over_it(secure: LabProcess) -> None:
    """REST and websocket."""
    with kernel(secure) as one:
        got = one.run("print(6 * 7)")
    assert got.strip() == "42", f"got {got!r}"


def test_its_cookie_never_travels_in_the_clear(secure: LabProcess) -> None:
    """The session's cookie is marked Secure."""
    with api(secure) as client:
        del client.headers["Authorization"]
        answer = client.get("/lab", params={"token": secure.token})
    cookies = [each for each in answer.headers.get_list("set-cookie") if secure.token not in each]
    assert cookies, f"no cookie in {answer.headers}"
    assert all("secure" in each.lower() for each in cookies), f"got {cookies}"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_protocols_are_refused(secure: LabProcess, version: ssl.TLSVersion) -> None:
    """A client that can only TLS 1.0 or 1.1 is turned away by the server."""
    context = trusting(secure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", secure.port), timeout=10) as plain,
        pytest.raises(ssl.SSLError) as caught,
        context.wrap_socket(plain, server_hostname="localhost"),
    ):
        pass
    assert "ALERT_PROTOCOL_VERSION" in str(caught.value).upper().replace(" ", "_"), f"got {caught.value}"


def test_todays_protocols_are_spoken(secure: LabProcess) -> None:
    """TLS 1.3."""
    with (
        socket.create_connection(("127.0.0.1", secure.port), timeout=10) as plain,
        trusting(secure).wrap_socket(plain, server_hostname="localhost") as channel,
    ):
        got = channel.version()
    assert got == "TLSv1.3", f"got {got}"


def test_plain_http_gets_nothing(secure: LabProcess) -> None:
    """There is no second door beside the secure one."""
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{secure.port}/api", trust_env=False, timeout=10)


def test_health_and_status_know_it(secure: LabProcess) -> None:
    """The container's own check passes; make status answers with address, kernels and fingerprint."""
    code, output = secure.container.exec_run(["python", "-IS", "/opt/venv/healthcheck.py"])
    assert code == 0, f"got {code}: {output!r}"
    done = secure.run("status", "--json")
    status = json.loads(done.stdout)
    assert (done.returncode, status["answers"], status["kernels"]) == (0, True, 0), f"got {done.stdout}{done.stderr}"
    assert status["address"] == f"https://localhost:{secure.port}", f"got {status['address']}"
    assert re.fullmatch(r"([0-9A-F]{2}:){31}[0-9A-F]{2}", status["fingerprint"]), f"got {status['fingerprint']}"


def test_starting_again_changes_nothing(secure: LabProcess) -> None:
    """Same container, same certificate; its fingerprint is said beside the URL."""
    before = secure.container.id
    done = secure.run("start", "cpu")
    fingerprint = json.loads(secure.run("status", "--json").stdout)["fingerprint"]
    assert secure.container.id == before, "the container was made anew"
    assert fingerprint in done.stderr, f"got {done.stderr}"


def test_another_certificate_on_the_disk_is_noticed(secure: LabProcess) -> None:
    """Whoever answers with another certificate is not the lab: it is told no token."""
    path = secure.state_dir / "run/tls/self-signed.pem"
    kept = path.read_bytes()
    path.write_bytes(trustme.CA().cert_pem.bytes())
    try:
        status = json.loads(secure.run("status", "--json").stdout)
    finally:
        path.write_bytes(kept)
    assert (status["answers"], status["kernels"]) == (False, None), f"got {status}"


def test_the_private_key_is_in_no_description(secure: LabProcess) -> None:
    """The key is a file of the state directory: not in the environment, the labels or the log."""
    key = (secure.state_dir / "run/tls/self-signed.key").read_text().splitlines()[1]
    text = json.dumps(secure.container.attrs) + secure.container.logs().decode()
    assert key not in text, "the key shows"


def test_a_restart_and_a_new_token_keep_it(secure: LabProcess) -> None:
    """make restart and make token-rotate print https URLs that answer."""
    for verb in ("restart", "token_rotate"):
        done = secure.run(verb)
        assert done.returncode == 0, f"{verb}: {done.stderr}"
        with api(secure) as client:
            code = client.get("/api/status").status_code
        assert (done.stdout[:8], code) == ("https://", 200), f"{verb}: got {done.stdout} and {code}"


def test_ones_own_certificate_and_back_to_none(new_lab: Callable[[], LabProcess]) -> None:
    """TLS_CERT and TLS_KEY: a client of the company's CA gets in; without them the same lab speaks HTTP again."""
    lab = new_lab()
    lab.state_dir.parent.mkdir(exist_ok=True)
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    cert, key = lab.state_dir.parent / "cert.pem", lab.state_dir.parent / "key.pem"
    cert.write_bytes(issued.cert_chain_pems[0].bytes())
    key.write_bytes(issued.private_key_pem.bytes())
    key.chmod(0o600)  # root's, as certbot leaves it: the lab's user could not read it
    url = lab.start(TLS_CERT=str(cert), TLS_KEY=str(key))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    got = httpx.get(url, verify=context, trust_env=False, follow_redirects=True, timeout=30).status_code
    assert (url[:8], got) == ("https://", 200), f"got {url} and {got}"
    done = lab.run("start", "cpu")
    assert "LAB_TLS_CERT" in done.stderr, f"the change is not said: {done.stderr}"
    wait_until(lambda: httpx.get(f"{lab.url}/api", trust_env=False).status_code == 200, seconds=10)
