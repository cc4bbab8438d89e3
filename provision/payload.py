"""The checkout as it is now, local edits included, as a tar.gz that is the same for the same files."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LEFT_OUT = ("tests/", ".github/")  # not needed to run the lab
WITHOUT_GIT = ("Makefile", "README.md", "pyproject.toml", "uv.lock", "docker", "notebooks", "scripts", "provision")


def archive(root: Path) -> bytes:
    """Pack the checkout: names sorted, owners and times fixed, the executable bit kept."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in names(root):
            content = (root / name).read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755 if (root / name).stat().st_mode & 0o100 else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def names(root: Path) -> list[str]:
    """The files to send, relative to the root; deleted ones and what git ignores are not among them."""
    listing = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if (root / ".git").exists():
        done = subprocess.run(listing, capture_output=True, text=True, check=True)
        found = set(done.stdout.split("\0")) - {""}
    else:
        paths = [path for top in WITHOUT_GIT for path in (root / top, *(root / top).rglob("*"))]
        found = {str(path.relative_to(root)) for path in paths if "__pycache__" not in path.parts}
    return sorted(name for name in found if (root / name).is_file() and not name.startswith(LEFT_OUT))
