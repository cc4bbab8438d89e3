"""The measurements. Each returns rows; a new one is added to MEASUREMENTS."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.console import say
from scripts.engine import Engine
from scripts.image import VARIANTS, tag_of
from scripts.settings import ROOT
from scripts.spec import LABEL
from tests.bench.labs import Bench, client, time_until_status, timed
from tests.bench.row import Row, at_most, ratio_at_most

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROUNDS = 5
SETTLE_SECONDS = 3  # after the first answer the server still frees what starting needed
CHROMIUM = Path("/usr/bin/chromium")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


def starting(bench: Bench) -> list[Row]:
    """From no container to an answer, and the memory that the idle server then holds."""
    engine = Engine()
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    memory: dict[str, list[float]] = {"ours": [], "plain": []}
    for round_ in range(ROUNDS):
        say(f"  start, round {round_ + 1} of {ROUNDS}")
        bench.remove()
        ours = time_until_status(lambda: bench.make("run-cpu"), bench.port, lambda: bench.token)
        plain = time_until_status(bench.run_plain, bench.plain_port, lambda: bench.plain_token)
        time.sleep(SETTLE_SECONDS)
        for key, took, name in (("ours", ours, bench.name), ("plain", plain, f"{bench.name}-plain")):
            seconds[key].append(took)
            memory[key].append(engine.memory_usage(name) / 2**20)
    mine, theirs = statistics.median(memory["ours"]), statistics.median(memory["plain"])
    return [
        ratio_at_most("no container: make run-cpu until /api/status", seconds["ours"], seconds["plain"], 1.3),
        Row(name="idle memory", unit="MiB", value=mine, baseline=theirs, goal="≤ +15 MiB", met=mine <= theirs + 15),
    ]


def running(bench: Bench) -> list[Row]:
    """The verbs on a running lab."""
    bench.make("run-cpu")
    again = [timed(lambda: bench.make("run-cpu")) for _ in range(ROUNDS)]
    url = [timed(lambda: bench.make("url")) for _ in range(ROUNDS)]
    return [at_most("running: make run-cpu", again, 1.0), at_most("running: make url", url, 0.5)]


def changed_setting(bench: Bench) -> list[Row]:
    """A changed server setting, in a copy of the checkout: rebuilt and answering, without installing a wheel again."""
    copy = bench.folder / "checkout"
    left_out = shutil.ignore_patterns(".venv", ".git", "workspace", "__pycache__", "artifacts")
    shutil.copytree(ROOT, copy, ignore=left_out)
    (copy / ".venv").symlink_to(ROOT / ".venv")
    config = copy / "docker/jupyter_server_config.py"
    samples, installed = [], []
    for round_ in range(ROUNDS):
        say(f"  changed setting, round {round_ + 1} of {ROUNDS}")
        config.write_text(f"{config.read_text()}# {time.time()}\n")
        begin = time.monotonic()
        talk = bench.make("run-cpu", checkout=copy).stderr
        samples.append(time.monotonic() - begin)
        installed += [line for line in talk.splitlines() if "Downloaded" in line or "Installed" in line]
    bench.make("run-cpu")  # the tag belongs to the real sources again
    row = at_most(
        "changed setting: make run-cpu", samples, 15, note="a wheel was installed" if installed else "no wheel"
    )
    return [row]


def size(bench: Bench) -> list[Row]:
    """Each image that is built here, against its base and its installed wheels."""
    bench.make("run-cpu")
    return [_size(variant) for variant in VARIANTS if Engine().image(tag_of(variant))]


def _size(variant: str) -> Row:
    """Wheels: their files, and their bytecode, which pip compiles too."""
    engine = Engine()
    image = engine.image(tag_of(variant))
    assert image
    base = engine.image(image.labels[f"{LABEL}.base"])
    assert base
    code = """
import importlib.metadata as m, json, pathlib
site = '/opt/venv/lib/python3.13/site-packages'
files = {f.locate() for d in m.distributions(path=[site]) for f in d.files or [] if f.suffix != '.pyc'}
print(json.dumps({'wheels': sum(f.stat().st_size for f in files if f.is_file()),
                  'bytecode': sum(f.stat().st_size for f in pathlib.Path(site).rglob('*.pyc'))}))
"""
    output: Any = client().containers.run(image.id, ["python", "-c", code], remove=True, network_mode="none")
    sums = json.loads(output)
    whole, parts = image.size / 1e9, (base.size + sums["wheels"] + sums["bytecode"]) / 1e9
    note = f"base {base.size / 1e9:.2f}, wheels {sums['wheels'] / 1e9:.2f}, bytecode {sums['bytecode'] / 1e9:.2f}"
    goal = "≤ 1.03 × base + installed wheels"
    name, met = f"image size, {variant}", whole <= 1.03 * parts
    return Row(name=name, unit="GB", value=whole, baseline=parts, goal=goal, met=met, note=note)


def browser(bench: Bench) -> list[Row]:
    """From opening the URL in a fresh profile until the file browser is filled."""
    name = "browser: URL to filled file browser"
    if not CHROMIUM.exists():
        return [Row(name=name, unit="s", value=None, goal="≤ 1 ×", met=None, note="no Chromium here")]
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - heavy, and only this row needs it

    bench.make("run-cpu")
    ours, plain = [], []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=QUIET)
        for round_ in range(ROUNDS):
            say(f"  browser, round {round_ + 1} of {ROUNDS}")
            ours.append(_open(chromium, f"http://127.0.0.1:{bench.port}/lab?token={bench.token}"))
            plain.append(_open(chromium, f"http://127.0.0.1:{bench.plain_port}/lab?token={bench.plain_token}"))
        chromium.close()
    return [ratio_at_most(name, ours, plain, 1.0)]


def _open(chromium: Browser, url: str) -> float:
    context = chromium.new_context()
    page = context.new_page()
    begin = time.monotonic()
    page.goto(url)
    page.locator(".jp-DirListing-item").first.wait_for(timeout=60_000)
    took = time.monotonic() - begin
    context.close()
    return took


MEASUREMENTS = (starting, running, changed_setting, size, browser)
