"""Twenty kernels and a hundred requests a second: our container against a bare server of the same versions without one.

Open loop: a request's time counts from the moment it was due, so that a server that falls behind shows it.
"""

from __future__ import annotations

import http.client
import multiprocessing
import os
import secrets
import shutil
import signal
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import psutil

from scripts import health, local
from scripts.console import say
from scripts.image import DOCKER
from scripts.tools import UV
from tests.bench.labs import client
from tests.bench.row import Row, ratio_at_most
from tests.conftest import free_port
from tests.image.client import api, kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.labs import Bench
    from tests.image.client import Kernel

KERNELS = 20
EXECUTIONS = 5  # a second, in each kernel
REQUESTS = 100  # a second, all together
PATHS = ("/api/contents?content=1", "/api/status")
ROUND_SECONDS, ROUNDS = 60, 2
STARTS = 10  # times KERNELS kernels at once
COUNTS = (1, 5, 10, 20)
GUESSES = 10_000


@dataclass(frozen=True)
class Target:
    """A server under load, and the process below which its kernels run."""

    url: str
    token: str
    pid: int

    def connect(self) -> http.client.HTTPConnection:
        """A connection that stays open from one request to the next."""
        return http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=60)


@dataclass
class Load:
    """What a load showed: seconds of each request and execution, and what went wrong."""

    requests: list[float] = field(default_factory=list)
    executions: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def load(bench: Bench) -> list[Row]:
    """Both servers in turn: memory of idle kernels, the load, twice the load, many starts; and guesses at ours."""
    bench.make("run-cpu")
    with bare(bench) as plain:
        ours = Target(f"http://127.0.0.1:{bench.port}", bench.token, _container_pid(bench))
        pair = {"ours": ours, "bare": plain}
        return [*_memory(pair), *_under(pair), *_under(pair, times=2), _many_starts(pair), _guesses(ours)]


@contextmanager
def bare(bench: Bench) -> Iterator[Target]:
    """The server's lock in a venv, Jupyter's own settings, no container."""
    venv, port, token = bench.folder / "bare", free_port(), secrets.token_hex(32)
    environ = {**os.environ, "VIRTUAL_ENV": str(venv), "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
               "JUPYTER_TOKEN": token, "HOME": str(bench.folder / "home")}  # fmt: skip
    lock = f"--requirement={DOCKER / 'requirements/server.txt'}"
    subprocess.run([str(UV), "venv", "--quiet", f"--python={local.find_python()}", str(venv)], check=True)
    subprocess.run([str(UV), "pip", "install", "--quiet", "--no-deps", lock], env=environ, check=True)
    argv = [str(venv / "bin/jupyter-lab"), "--no-browser", "--allow-root", f"--port={port}",
            f"--ServerApp.root_dir={bench.workspace}"]  # fmt: skip
    with subprocess.Popen(argv, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        asked = health.Server("127.0.0.1", port)
        assert asked.wait_until_answers(timeout=60, alive=lambda: server.poll() is None), "the bare server is dead"
        try:
            yield Target(f"http://127.0.0.1:{port}", token, server.pid)
        finally:
            server.send_signal(signal.SIGTERM)
    shutil.rmtree(venv)


def _container_pid(bench: Bench) -> int:
    return int(client().containers.get(bench.name).attrs["State"]["Pid"])


def _under(pair: dict[str, Target], *, times: int = 1) -> list[Row]:
    """The load on both, alternating."""
    found = {name: Load() for name in pair}
    for round_ in range(ROUNDS):
        for name, target in pair.items():
            say(f"  load × {times} on {name}, round {round_ + 1} of {ROUNDS}")
            put_under_load(target, found[name], seconds=ROUND_SECONDS, requests=times * REQUESTS)
    wrong = {name: len(each.errors) for name, each in found.items()}
    for name, each in found.items():
        for error in sorted(set(each.errors))[:3]:
            say(f"  {name}: {error}")
    label = f"{times * REQUESTS} requests/s, {KERNELS} kernels busy"
    rows = []
    for what in ("requests", "executions"):
        mine, theirs = getattr(found["ours"], what), getattr(found["bare"], what)
        limit = 1.2 if times == 1 else 2.0
        middle = ratio_at_most(f"{label}: {what}, p50", [1000 * each for each in mine], [1000 * e for e in theirs],
                               limit, unit="ms")  # fmt: skip
        last = ratio_at_most(f"{label}: {what}, p95", [_p95(mine)], [_p95(theirs)], limit, unit="ms")
        rows += [middle, last]
    count = f"of {len(found['ours'].requests) + len(found['ours'].executions)}"
    name = f"{label}: errors and lost messages"
    return [*rows, Row(name=name, unit="", value=wrong["ours"], baseline=wrong["bare"], goal="0",
                       met=wrong["ours"] == 0, note=count)]  # fmt: skip


def _p95(seconds: list[float]) -> float:
    """The 95th percentile, in milliseconds."""
    return 1000 * statistics.quantiles(seconds, n=20)[-1]


def put_under_load(target: Target, into: Load, *, seconds: float, requests: float) -> None:
    """Ask and execute for so long; what fails is noted, not raised."""
    with ExitStack() as stack:
        kernels = [stack.enter_context(kernel(target)) for _ in range(KERNELS)]
        for each in kernels:
            each.run("1")
        begin = time.monotonic() + 0.5
        workers = 20
        threads = [
            *(threading.Thread(target=_ask, args=(target, into, begin + n / requests, workers / requests, seconds))
              for n in range(workers)),
            *(threading.Thread(target=_execute, args=(each, into, begin, seconds)) for each in kernels),
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _ask(target: Target, into: Load, begin: float, every: float, seconds: float) -> None:
    """One of the workers, whose requests are due at fixed times."""
    connection = target.connect()
    headers = {"Authorization": f"token {target.token}"}
    for number in range(int(seconds / every)):
        due = begin + number * every
        time.sleep(max(0, due - time.monotonic()))
        try:
            connection.request("GET", PATHS[number % len(PATHS)], headers=headers)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                into.errors.append(f"HTTP {response.status}")
        except (OSError, http.client.HTTPException) as error:
            into.errors.append(repr(error))
            connection.close()
        into.requests.append(time.monotonic() - due)
    connection.close()


def _execute(one: Kernel, into: Load, begin: float, seconds: float) -> None:
    """One kernel, kept busy; every answer must be the one to its question."""
    for number in range(int(seconds * EXECUTIONS)):
        due = begin + number / EXECUTIONS
        time.sleep(max(0, due - time.monotonic()))
        try:
            got = one.run(f"print({number})", timeout=60, cellId="load").strip()  # as a page asks
        except Exception as error:
            into.errors.append(repr(error))
            return
        if got != str(number):
            into.errors.append(f"lost: {got!r} instead of {number}")
        into.executions.append(time.monotonic() - due)


def _many_starts(pair: dict[str, Target]) -> Row:
    """Kernels started together, again and again, while the load goes on."""
    lost: dict[str, int] = {}
    for name, target in pair.items():
        say(f"  {STARTS} × {KERNELS} kernels at once on {name}")
        over = threading.Event()
        background = threading.Thread(target=_keep_loaded, args=(target, over))
        background.start()
        with ThreadPoolExecutor(KERNELS) as pool:
            lost[name] = sum(not alive for _ in range(STARTS) for alive in pool.map(_starts, [target] * KERNELS))
        over.set()
        background.join()
    return Row(name=f"kernels lost of {STARTS * KERNELS}, {KERNELS} started at once under load", unit="",
               value=lost["ours"], baseline=lost["bare"], goal="0", met=lost["ours"] == 0)  # fmt: skip


def _keep_loaded(target: Target, over: threading.Event) -> None:
    while not over.is_set():
        put_under_load(target, Load(), seconds=10, requests=REQUESTS)


def _starts(target: Target) -> bool:
    try:
        with kernel(target) as one:
            return one.run("print(6 * 7)").strip() == "42"
    except Exception as error:
        say(f"    {error!r}")
        return False


def _guesses(target: Target) -> Row:
    """Requests with the token, before and while somebody guesses it as fast as one connection can."""
    say(f"  {GUESSES} guesses of the token")
    quiet, disturbed = Load(), Load()
    for _ in range(20):
        _ask(target, quiet, time.monotonic(), 1 / 20, 1)
    guesser = multiprocessing.get_context("spawn").Process(target=_guess, args=(target,))
    begin = time.monotonic()
    guesser.start()
    while guesser.is_alive():
        _ask(target, disturbed, time.monotonic(), 1 / 20, 1)
    guesser.join()
    p95, before = _p95(disturbed.requests), _p95(quiet.requests)
    row = ratio_at_most("request p95 during guesses (against: quiet)", [p95], [before], 2, unit="ms")
    note = f"{GUESSES / (time.monotonic() - begin):.0f} guesses/s"
    return replace(row, note=note, met=row.met and not disturbed.errors and guesser.exitcode == 0)


def _guess(target: Target) -> None:
    """Every guess must be refused; the process fails otherwise."""
    connection = target.connect()
    for number in range(GUESSES):
        connection.request("GET", "/api/status", headers={"Authorization": f"token {number:064x}"})
        response = connection.getresponse()
        response.read()
        if response.status != 403:
            raise SystemExit(f"a guess was answered with {response.status}")


def _memory(pair: dict[str, Target]) -> list[Row]:
    """Memory of each idle kernel, shared pages by their share, from one kernel to twenty."""
    per_kernel: dict[str, dict[int, float]] = {name: {} for name in pair}
    for name, target in pair.items():
        say(f"  memory of idle kernels on {name}")
        with api(target) as client:
            for number in range(1, max(COUNTS) + 1):
                client.post("/api/kernels", json={"name": "python3"}).raise_for_status()
                if number in COUNTS:
                    time.sleep(3)  # until the last one has loaded
                    per_kernel[name][number] = _proportional_memory(target) / number
            for each in client.get("/api/kernels").json():
                client.delete(f"/api/kernels/{each['id']}")
    return [ratio_at_most(f"memory per idle kernel, {number} kernels", [per_kernel["ours"][number]],
                          [per_kernel["bare"][number]], 1.05, unit="MiB") for number in COUNTS]  # fmt: skip


def _proportional_memory(target: Target) -> float:
    below = psutil.Process(target.pid).children(recursive=True)
    kernels = [each for each in below if any("ipykernel" in word for word in each.cmdline())]
    return float(sum(each.memory_full_info().pss for each in kernels)) / 2**20
