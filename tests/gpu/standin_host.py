"""Run a verb on a stand-in machine: `python -m tests.gpu.standin_host ROOT start gpu` reads ROOT/sys and ROOT/proc."""

import runpy
import sys
from pathlib import Path

from scripts import gpu_probe

root, verb, *arguments = sys.argv[1:]
gpu_probe.SYS, gpu_probe.PROC = Path(root) / "sys", Path(root) / "proc"
sys.argv = [verb, *arguments]
runpy.run_module(f"scripts.{verb}", run_name="__main__")
