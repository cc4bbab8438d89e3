"""The VM's first boot as cloud-init text: a pure function. JSON is YAML, and needs no YAML library."""

from __future__ import annotations

import base64
import gzip
import json
from typing import TYPE_CHECKING

from provision.ssh import BOOTSTRAP

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTINGS = "/etc/pytorch-jupyter.env"


def render(*, bootstrap: str, settings: Mapping[str, str], user: str) -> str:
    """Write the bootstrap and its settings, and start it. No secret is in it: every process on the VM can read it.

    Raises:
        ValueError: a value holds a line break and would become a setting of its own.

    """
    values = {**settings, "LAB_USER": user}
    broken = next((key for key, value in values.items() if "\n" in value or "\r" in value), None)
    if broken:
        raise ValueError(f"{broken} must be one line")
    packed = base64.b64encode(gzip.compress(bootstrap.encode(), mtime=0)).decode()
    lines = "".join(f"{key}={value}\n" for key, value in sorted(values.items()))
    config = {
        "write_files": [
            {"path": BOOTSTRAP, "permissions": "0755", "encoding": "gz+b64", "content": packed},
            {"path": SETTINGS, "permissions": "0644", "content": lines},
        ],
        "runcmd": [["python3", BOOTSTRAP, "install"]],
    }
    return "#cloud-config\n" + json.dumps(config, indent=1) + "\n"
