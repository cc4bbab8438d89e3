"""The only module that runs `az`: command lines in, JSON out, its failures in one line each."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import IO, Any

from scripts.console import LabError, say

OLDEST = (2, 60, 0)
TICK_SECONDS = 15
INSTALL = "pipx install azure-cli (or https://aka.ms/azcli), then: az login"
# What az prints when the thing simply is not there.
ABSENT = r"ResourceGroupNotFound|ResourceNotFound|NotFound\b|was not found|could not be found|Can't resolve the version"
# az's words, ours, and the command that helps; the first that matches.
FAILURES = (
    (r"az login|AADSTS|ExpiredAuthenticationToken|InvalidAuthenticationToken|No subscription found",
     "az is not logged in, or the login has expired", "az login"),
    (r"SubscriptionNotFound|subscription .* (doesn't|does not) exist",
     "az does not know this subscription", "az account list --output table, then SUBSCRIPTION="),
    (r"OperationNotAllowed.*quota|QuotaExceeded|exceeding approved .*quota",
     "the subscription's quota does not admit this VM", "another SIZE= or REGION=, or ask for quota: https://aka.ms/azquota"),
    (r"SkuNotAvailable|AllocationFailed|OverconstrainedAllocation|ZonalAllocationFailed",
     "Azure has no room for this size there now", "another REGION= or SIZE=, or the same command later"),
    (r"DnsRecordInUse", "the name is taken in this region by somebody else", "make vm-create NAME=another-name"),
    (r"AuthorizationFailed|does not have authorization",
     "your account may not do this in the subscription", "ask its owner for the role Contributor"),
    (r"RequestDisallowedByPolicy", "a policy of your organisation forbids it", "its words stand above; ask its owner"),
    (r"Failed to establish a new connection|Max retries exceeded|getaddrinfo|Name or service not known|ProxyError",
     "Azure cannot be reached from here", "check network and HTTPS_PROXY; az account show tests it"),
    (r"CERTIFICATE_VERIFY_FAILED", "the connection to Azure is re-signed by a certificate that az does not know",
     "REQUESTS_CA_BUNDLE=<your company's CA file>"),
)  # fmt: skip


class AbsentError(LabError):
    """What was asked for does not exist."""


@dataclass(frozen=True)
class Az:
    """The Azure CLI with one subscription. In a dry run every command is printed to stdout and none is run."""

    subscription: str | None = None
    dry_run: bool = False

    def read(self, *arguments: str, assume: Any = None) -> Any:
        """Run a command that only looks; a dry run takes `assume` for its answer.

        Raises:
            AbsentError: the thing asked for is not there.
            LabError: any other failure, in our words, below az's.

        """
        return self._run(list(arguments), assume)

    def find(self, *arguments: str, assume: Any = None) -> Any:
        """Run a command that looks for one thing; None when it is not there."""
        try:
            return self.read(*arguments, assume=assume)
        except AbsentError:
            return None

    def change(self, arguments: list[str], doing: str) -> None:
        """Run a command that changes something, saying what, and every so often that it goes on."""
        say(f"{doing} …")
        self._run(arguments, None, doing=doing)

    def _run(self, arguments: list[str], assume: Any, *, doing: str | None = None) -> Any:
        where = ["--subscription", self.subscription] if self.subscription else []
        argv = ["az", *arguments, *where, "--output", "json"]
        if self.dry_run:
            print(shlex.join(argv))
            return assume
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            code = _wait(argv, out, err, doing)
            out.seek(0)
            err.seek(0)
            if code:
                raise failure(argv, err.read())
            text = out.read()
        return json.loads(text) if text.strip() else None


def _wait(argv: list[str], out: IO[str], err: IO[str], doing: str | None) -> int:
    program = shutil.which("az")
    if not program:
        raise LabError("the Azure CLI (az) is not installed", hint=INSTALL)
    quiet = {
        "AZURE_CORE_ONLY_SHOW_ERRORS": "true",
        "AZURE_CORE_COLLECT_TELEMETRY": "false",
        "AZURE_CORE_NO_COLOR": "true",
    }
    started = time.monotonic()
    with subprocess.Popen(
        [program, *argv[1:]], stdout=out, stderr=err, stdin=subprocess.DEVNULL, env={**os.environ, **quiet}
    ) as process:
        while True:
            try:
                return process.wait(timeout=TICK_SECONDS)
            except subprocess.TimeoutExpired:
                say(f"  … {doing or 'asking Azure'}: {time.monotonic() - started:.0f} s")


def failure(argv: list[str], words: str) -> LabError:
    """Turn az's stderr into one line; a traceback of az's own has the real error somewhere above it."""
    for pattern, message, hint in FAILURES:
        if re.search(pattern, words, re.IGNORECASE | re.DOTALL):
            return LabError(f"{message} ({_essence(words)})", hint=hint)
    if re.search(ABSENT, words):
        return AbsentError(_essence(words), hint="make vm-create makes it")
    if re.search(r"unrecognized arguments|is misspelled or not recognized", words):
        return LabError(f"az does not know this command ({_essence(words)})", hint="az upgrade, or " + INSTALL)
    command = shlex.join(argv[:4])
    return LabError(f"{command} … failed: {_essence(words)}", hint="DRY_RUN=1 prints the commands, to try by hand")


def _essence(words: str) -> str:
    """The one line that says it: the error's message, not the traceback around it."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    for pattern in (
        r"Message: (.+)",
        r"(?:.*Error: )?\(\w+\) (.+)",
        r"ERROR: (?!The command failed with|The content for)(.+)",
    ):
        if told := next(filter(None, (re.match(pattern, line) for line in lines)), None):
            return told[1][:300]
    return lines[-1][:300] if lines else "no message"


def require_usable(az: Az) -> None:
    """Have an az that is new enough and logged in.

    Raises:
        LabError: it is missing, too old or not logged in.

    """
    version = az.read("version", assume={"azure-cli": "dry run"})["azure-cli"]
    numbers = tuple(int(each) for each in re.findall(r"\d+", version)[:3])
    if numbers and numbers < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise LabError(f"the Azure CLI is version {version}; {needed} or newer is needed", hint="az upgrade")
    az.read("account", "show", assume={})
