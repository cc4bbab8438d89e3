"""The certificate: made once, renewed in time, and the user's own taken only when it can serve."""

from __future__ import annotations

import os
import ssl
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from scripts import tls
from scripts.console import LabError
from scripts.host import Identity
from scripts.settings import Settings
from scripts.state import State, ensure_folders
from scripts.tls import Certificate, ensure_certificate

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.now(timezone.utc)


@pytest.fixture
def place(tmp_path: Path) -> State:
    """An empty state directory."""
    state = State(tmp_path / "state")
    ensure_folders(state, me())
    return state


def me() -> Identity:
    """Whoever runs the tests."""
    return Identity(os.getuid(), os.getgid(), None)  # type: ignore[arg-type] # no home is needed


def ensure(place: State, **environ: str) -> Certificate | None:
    """The certificate that these settings give."""
    return ensure_certificate(Settings.load(environ), place, me())


def own(folder: Path) -> dict[str, str]:
    """A certificate of a company's CA, as settings."""
    issued = trustme.CA().issue_cert("lab.example")
    (folder / "cert.pem").write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    return {"TLS_CERT": str(folder / "cert.pem"), "TLS_KEY": str(folder / "key.pem")}


def made_here(place: State) -> Certificate:
    """The self-signed certificate."""
    made = ensure(place, TLS="self-signed")
    assert made, "no certificate was made"
    return made


def test_off_is_nothing(place: State) -> None:
    """Without a setting there is no certificate and no folder for one."""
    got = ensure(place)
    assert (got, place.tls.exists()) == (None, False), f"got {got}"


def test_it_is_made_once(place: State) -> None:
    """A second start presents the same certificate: browsers ask once."""
    first, second = made_here(place), made_here(place)
    assert first == second, f"got {second}, expected {first}"


def test_only_the_user_reads_the_key(place: State) -> None:
    """The key is a 0600 file in a 0700 folder."""
    made = made_here(place)
    got = [oct(path.stat().st_mode & 0o777) for path in (made.key, made.path.parent)]
    assert got == ["0o600", "0o700"], f"got {got}"


def test_python_loads_it(place: State) -> None:
    """A TLS server can be made of the two files."""
    made = made_here(place)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(made.path, made.key)


def test_names_dates_and_purpose(place: State) -> None:
    """It names what a browser may open, lasts a year, and can sign for nobody."""
    made = ensure(place, TLS="self-signed", URL_HOST="lab.example", BIND="192.0.2.7")
    assert made, "no certificate was made"
    found = x509.load_pem_x509_certificate(made.path.read_bytes())
    alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    got = {str(each.value) for each in alternatives}
    assert got >= {"localhost", "127.0.0.1", "::1", "lab.example", "192.0.2.7"}, f"got {got}"
    lasts = found.not_valid_after_utc - NOW
    assert timedelta(days=364) < lasts < timedelta(days=366), f"got {lasts}"
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False, "it is a CA"


def test_another_name_is_another_certificate(place: State) -> None:
    """What does not name the new address would be refused there."""
    first = made_here(place)
    second = ensure(place, TLS="self-signed", URL_HOST="elsewhere.example")
    assert second, "no certificate was made"
    assert second.fingerprint != first.fingerprint, "the old certificate was kept"


@pytest.mark.parametrize(("days", "renewed"), [(31, False), (29, True), (-1, True)])
def test_it_is_renewed_a_month_before_it_ends(place: State, days: int, renewed: bool) -> None:  # noqa: FBT001 - a case
    """Not earlier, so that browsers ask rarely; not later, so that nobody meets an ended one."""
    made = made_here(place)
    key = ec.generate_private_key(ec.SECP256R1())
    old = tls.make(key, tls.names(Settings.load({})), NOW - tls.LIFETIME + timedelta(days=days))
    laid = tls._lay(place, me(), "self-signed", [old], key)
    got = made_here(place)
    assert (got.fingerprint != laid.fingerprint) is renewed, f"{days} days before its end: got {got}, had {made}"


def test_a_damaged_key_is_replaced(place: State) -> None:
    """Half a pair serves nobody: both are made anew."""
    first = made_here(place)
    first.key.write_text("nonsense")
    second = made_here(place)
    assert second.fingerprint != first.fingerprint, "the certificate without its key was kept"


def test_ones_own_certificate_is_copied_with_its_chain(place: State, tmp_path: Path) -> None:
    """The server reads a private copy, whoever owns the original."""
    settings = own(tmp_path)
    got = ensure(place, **settings)
    assert got, "no certificate"
    assert got.path.read_text().count("BEGIN CERTIFICATE") == (tmp_path / "cert.pem").read_text().count("BEGIN CERT")
    assert oct(got.key.stat().st_mode & 0o777) == "0o600", f"got {oct(got.key.stat().st_mode)}"


def test_a_renewed_certificate_of_ones_own_is_taken(place: State, tmp_path: Path) -> None:
    """The next start presents the new one."""
    before = ensure(place, **own(tmp_path))
    after = ensure(place, **own(tmp_path))
    assert before, "no certificate"
    assert after, "no certificate"
    assert before.fingerprint != after.fingerprint, "the old one was kept"


def broken(settings: dict[str, str], kind: str, folder: Path) -> dict[str, str]:
    """The settings with one thing wrong."""
    if kind == "no key":
        return {"TLS_CERT": settings["TLS_CERT"]}
    if kind == "both":
        return {**settings, "TLS": "self-signed"}
    if kind == "another's key":
        (folder / "other").mkdir()
        return {**settings, "TLS_KEY": own(folder / "other")["TLS_KEY"]}
    if kind == "a key as certificate":
        return {**settings, "TLS_CERT": settings["TLS_KEY"]}
    return {**settings, "TLS_KEY": settings["TLS_CERT"]}


CASES = {
    "no key": "TLS_CERT is set, but TLS_KEY is not",
    "both": "TLS=self-signed, and TLS_CERT names a certificate too",
    "another's key": "does not belong to TLS_CERT=",
    "a key as certificate": "holds no certificate",
    "a certificate as key": "holds no usable key",
}


@pytest.mark.parametrize("kind", CASES)
def test_what_cannot_serve_is_refused_with_a_hint(place: State, tmp_path: Path, kind: str) -> None:
    """One line names the setting, before anything is built or started."""
    settings = broken(own(tmp_path), kind, tmp_path)
    with pytest.raises(LabError) as caught:
        ensure(place, **settings)
    assert CASES[kind] in caught.value.message, f"got {caught.value.message!r}"
    assert caught.value.hint, "no hint"


def test_an_ended_certificate_is_refused(place: State, tmp_path: Path) -> None:
    """With the day on which it ended."""
    ended = trustme.CA().issue_cert("lab.example", not_after=datetime(2025, 6, 30, tzinfo=timezone.utc))
    settings = own(tmp_path)
    (tmp_path / "cert.pem").write_bytes(ended.cert_chain_pems[0].bytes())
    (tmp_path / "key.pem").write_bytes(ended.private_key_pem.bytes())
    with pytest.raises(LabError) as caught:
        ensure(place, **settings)
    assert "ended on 2025-06-30" in caught.value.message, f"got {caught.value.message!r}"


def test_the_fingerprint_is_the_browsers(place: State) -> None:
    """SHA-256 of the DER form, in capital hexadecimal pairs."""
    made = made_here(place)
    der = ssl.PEM_cert_to_DER_cert(made.path.read_text())
    import hashlib  # noqa: PLC0415 - this test's own second opinion

    expected = ":".join(f"{byte:02X}" for byte in hashlib.sha256(der).digest())
    assert made.fingerprint == expected, f"got {made.fingerprint}, expected {expected}"
    assert replace(made).key.suffix == ".key", f"got {made.key}"
