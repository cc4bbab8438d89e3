"""Whether an image is up to date: a hash of its sources, kept as the image's label. Standard library only."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def content_hash(folder: Path, *extra: str) -> str:
    """Hash every file below a folder, by name, mode and content, and some words; 64 hexadecimal digits.

    Compiled Python, hidden files and editors' backups are left out: they do not reach the image.
    """
    digest = hashlib.sha256()
    for word in extra:
        digest.update(f"{len(word)}:{word}\n".encode())
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not _ignored(relative.parts):
            executable = path.stat().st_mode & 0o100
            digest.update(f"{relative.as_posix()} {bool(executable)} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _ignored(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") or part.endswith("~") or part == "__pycache__" for part in parts)
