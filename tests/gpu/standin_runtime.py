#!/usr/bin/env python3
"""A stand-in for NVIDIA's OCI runtime: notes how it was called, brings in what lies beside it, hands over to runc.

`mode` beside it decides: ok, blind (nvidia-smi, but torch finds no GPU), lost (nvidia-smi fails), broken (no start).
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SITE = "/opt/venv/lib/python3.13/site-packages"

if "create" in sys.argv:
    bundle = Path(sys.argv[sys.argv.index("--bundle") + 1])
    config = json.loads((bundle / "config.json").read_text())
    (HERE / "called.json").write_text(json.dumps(config["process"]))
    mode = (HERE / "mode").read_text()
    if mode == "broken":
        log = Path(sys.argv[sys.argv.index("--log") + 1])  # where the engine reads a runtime's last words
        words = "nvidia-container-cli: initialization error: nvml error: driver not loaded"
        log.write_text(json.dumps({"level": "error", "msg": words, "time": "2026-01-01T00:00:00Z"}) + "\n")
        sys.exit(1)
    mounts = {HERE: "/standin", HERE / "nvidia-smi": "/usr/bin/nvidia-smi"}
    if mode != "blind":
        mounts[HERE / "torch"] = f"{SITE}/torch"
    config["mounts"] += [
        {"source": str(source), "destination": target, "type": "bind", "options": ["rbind", "ro"]}
        for source, target in mounts.items()
    ]
    (bundle / "config.json").write_text(json.dumps(config))
os.execvp("runc", ["runc", *sys.argv[1:]])
