"""TLS: the lab's certificate, made here once or the user's own, laid where the server reads it.

STATE_DIR/run/tls/self-signed.pem, .key   made here, kept until a month before it ends
STATE_DIR/run/tls/own.pem, .key           a copy of TLS_CERT and TLS_KEY, so that the lab's user can read them
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scripts.console import LabError, say
from scripts.state import ensure_folder, write_new

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from scripts.host import Identity
    from scripts.settings import Settings
    from scripts.state import State

LIFETIME = timedelta(days=365)
RENEW_BEFORE = timedelta(days=30)
PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Certificate:
    """A certificate's file, its key beside it as `.key`; its SHA-256 fingerprint as browsers show it."""

    path: Path
    fingerprint: str

    @property
    def key(self) -> Path:
        """The private key's file, 0600."""
        return self.path.with_suffix(".key")


def ensure_certificate(settings: Settings, state: State, identity: Identity) -> Certificate | None:
    """Have the files in place that the settings ask for; None: plain HTTP.

    Raises:
        LabError: the settings contradict each other, or the user's files cannot serve.

    """
    _require_consistent(settings)
    now = datetime.now(timezone.utc)
    if settings.tls_cert and settings.tls_key:
        chain, key = _read_own(settings.tls_cert, settings.tls_key, now)
        return _lay(state, identity, "own", chain, key)
    if settings.tls == "off":
        return None
    wanted = names(settings)
    kept = state.tls / "self-signed.pem"
    if (found := _read(kept)) and _serves(found, wanted, now):
        return _certificate(kept, found)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = make(key, wanted, now)
    say(f"made a certificate for {', '.join(wanted)}; it is renewed before it ends")
    return _lay(state, identity, "self-signed", [certificate], key)


def names(settings: Settings) -> list[str]:
    """The names and addresses under which a browser may open the lab."""
    wildcards = {"0.0.0.0", "::"}  # noqa: S104 - left out, not bound to
    bind = settings.bind if settings.bind not in wildcards else None
    host = settings.url_host.strip("[]") if settings.url_host else None
    every = ["localhost", "127.0.0.1", "::1", socket.gethostname(), host, bind]
    return list(dict.fromkeys(each for each in every if each and each.isascii()))


def make(key: ec.EllipticCurvePrivateKey, wanted: list[str], now: datetime) -> x509.Certificate:
    """A certificate for a server of these names that vouches for itself, and for nobody else."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pytorch-jupyter")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # a visitor's clock may be behind
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(each) for each in wanted]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _require_consistent(settings: Settings) -> None:
    if (settings.tls_cert is None) != (settings.tls_key is None):
        given, missing = ("TLS_CERT", "TLS_KEY") if settings.tls_cert else ("TLS_KEY", "TLS_CERT")
        raise LabError(f"{given} is set, but {missing} is not", hint=f"give both: make run-cpu {given}=… {missing}=…")
    if settings.tls_cert and settings.tls == "self-signed":
        raise LabError("TLS=self-signed, and TLS_CERT names a certificate too", hint="leave one of them out")


def _read_own(cert: Path, key_file: Path, now: datetime) -> tuple[list[x509.Certificate], PrivateKeyTypes]:
    """The user's chain and key.

    Raises:
        LabError: one of them cannot be read, they do not belong together, or the certificate has ended.

    """
    try:
        chain = x509.load_pem_x509_certificates(cert.read_bytes())
    except (OSError, ValueError) as error:
        hint = "give the server's certificate in PEM form, its chain below it (certbot: fullchain.pem)"
        raise LabError(f"TLS_CERT={cert} holds no certificate: {_first_line(error)}", hint=hint) from error
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        hint = f"a key in PEM form without a passphrase: openssl pkey -in '{key_file}' -out key.pem"
        raise LabError(f"TLS_KEY={key_file} holds no usable key: {_first_line(error)}", hint=hint) from error
    if chain[0].public_key() != key.public_key():
        hint = "the server's own certificate must come first in TLS_CERT"
        raise LabError(f"TLS_KEY={key_file} does not belong to TLS_CERT={cert}", hint=hint)
    ends = chain[0].not_valid_after_utc
    if ends < now:
        raise LabError(f"TLS_CERT={cert} ended on {ends:%Y-%m-%d}", hint="renew it; then the same command again")
    if ends < now + RENEW_BEFORE:
        say(f"TLS_CERT={cert} ends on {ends:%Y-%m-%d}; after renewing it, make run-cpu takes the new one")
    return chain, key


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _read(path: Path) -> x509.Certificate | None:
    """A certificate made here; None: not there, damaged, or its key does not fit."""
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
        key = serialization.load_pem_private_key(path.with_suffix(".key").read_bytes(), password=None)
    except (OSError, ValueError):
        return None
    return found if found.public_key() == key.public_key() else None


def _serves(found: x509.Certificate, wanted: list[str], now: datetime) -> bool:
    covered = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    lasts = found.not_valid_before_utc <= now < found.not_valid_after_utc - RENEW_BEFORE
    return lasts and all(_general_name(each) in list(covered) for each in wanted)


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _lay(
    state: State, identity: Identity, name: str, chain: list[x509.Certificate], key: PrivateKeyTypes
) -> Certificate:
    """Write key and chain where the server reads them; what is there already and the same is left alone."""
    path = state.tls / f"{name}.pem"
    text = "".join(each.public_bytes(PEM).decode() for each in chain)
    secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    ensure_folder(state.tls, identity, mode=0o700)
    for file, content in ((path.with_suffix(".key"), secret), (path, text)):
        if not file.exists() or file.read_text() != content:
            write_new(file, content, identity, mode=0o600)
    return _certificate(path, chain[0])


def _certificate(path: Path, found: x509.Certificate) -> Certificate:
    return Certificate(path, found.fingerprint(hashes.SHA256()).hex(":").upper())
