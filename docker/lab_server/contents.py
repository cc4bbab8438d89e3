"""Files are saved whole: a server that is killed, or a disk that fills up, leaves the old version or the new."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import defaultdict
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from tornado.web import HTTPError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab_server.outputs import Execution


LONGEST_NAME = 255  # bytes, on every file system that Linux and macOS use
PATIENCE = 3600.0  # seconds until the pieces of an upload that broke off are thrown away


class WholeFilesManager(AsyncLargeFileManager):
    """Jupyter's files, replaced in one step instead of overwritten in place, and completed with kept outputs.

    Jupyter's own `atomic_writing` copies the old file aside and writes over it: killed in between, it leaves half.
    The pieces of a large upload it appends to the file itself: broken off, the old file is gone.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._completed: dict[str, tuple[str, str]] = {}
        self._uploads: dict[str, asyncio.TimerHandle] = {}

    @contextmanager
    def atomic_writing(self, os_path: str, *args: Any, text: bool = True, **options: Any) -> Iterator[Any]:
        """Write beside the file and put it in its place when all is on the disk."""
        path = Path(os_path).resolve()
        if not _replaceable(path):
            with super().atomic_writing(os_path, *args, text=text, **options) as file:
                yield file
            return
        draft = _draft(path, "save")
        options = {"encoding": "utf-8", "newline": "\n"} if text else {}
        with self.perm_to_403(os_path):
            draft.unlink(missing_ok=True)
            try:
                with draft.open("x" if text else "xb", **options) as file:
                    yield file
                _put_in_place(draft, path)
            finally:
                draft.unlink(missing_ok=True)

    async def get(self, path: str, content: bool = True, **options: Any) -> dict[str, Any]:  # noqa: FBT001, FBT002 - Jupyter's signature
        """Read a file; a notebook comes with the outputs that arrived since its last page was closed."""
        name = path.strip("/")
        if content:
            await self.parent.kernel_manager.write_path(name)
            async with self._locks[name]:  # not before a writing that is under way has ended
                self._completed.pop(name, None)
                return dict(await super().get(path, content=True, **options))
        model: dict[str, Any] = await super().get(path, content=False, **options)
        before, after = self._completed.get(name, ("", ""))
        if after and model.get("hash") == after:
            # A page that slept has the outputs too: for it, nobody else has changed the file.
            model["hash"] = before
        return model

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Save a file, one save of it at a time."""
        name = path.strip("/")
        write = super().save if model.get("chunk") is None else self._save_piece
        async with self._locks[name]:
            saved: dict[str, Any] = await write(model, name)
            self._completed.pop(name, None)
        await self.parent.kernel_manager.forget_saved(name)
        return saved

    async def _save_piece(self, model: dict[str, Any], name: str) -> dict[str, Any]:
        """Collect the pieces of a large file beside its place; the last one puts the whole there."""
        path = Path(self._get_os_path(name)).resolve()
        if model.get("type") != "file" or "content" not in model or not _replaceable(path):
            return dict(await super().save(model, name))  # which says what is wrong
        draft = _draft(path, "upload")
        if timer := self._uploads.pop(name, None):
            timer.cancel()
        if model["chunk"] == 1:
            self.run_pre_save_hooks(model=model, path=name)
            draft.unlink(missing_ok=True)
        elif not draft.exists():
            raise HTTPError(409, f"The first pieces of {name} are gone; upload it again")
        try:
            await self._save_large_file(str(draft), model["content"], model.get("format"))
            if model["chunk"] == -1:
                _put_in_place(draft, path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise HTTPError(500, f"Unexpected error while saving file: {name} {error.strerror}") from error
        if model["chunk"] != -1:
            drop = partial(draft.unlink, missing_ok=True)
            self._uploads[name] = asyncio.get_running_loop().call_later(PATIENCE, drop)
            return _uploading(name, draft)
        saved: dict[str, Any] = await self.get(name, content=False)
        self.run_post_save_hooks(model=saved, os_path=str(path))
        self.emit(data={"action": "save", "path": name})
        return saved

    def _get_os_path(self, path: str) -> str:
        """Say why a name cannot be; Jupyter would answer 'Unhandled error'."""
        if any(len(name.encode(errors="replace")) > LONGEST_NAME for name in path.split("/")):
            raise HTTPError(400, f"File name too long: a name may have {LONGEST_NAME} bytes")
        return str(super()._get_os_path(path))

    async def complete(self, path: str, executions: list[Execution]) -> None:
        """Write the outputs of executed cells into their notebook; a cell that is gone is left out."""
        async with self._locks[path]:
            model = await super().get(path, content=True, type="notebook", require_hash=True)
            cells = {cell.get("id"): cell for cell in model["content"].cells if cell.cell_type == "code"}
            for execution in executions:
                if cell := cells.get(execution.cell_id):
                    cell.outputs, cell.execution_count = execution.document(), execution.count
                    cell.metadata["trusted"] = True  # the user's own kernel made them, as when a page is there
            before, after = self._completed.get(path, ("", ""))
            await super().save({"type": "notebook", "format": "json", "content": model["content"]}, path)
            now = await super().get(path, content=False, require_hash=True)
            self._completed[path] = (before if after == model["hash"] else model["hash"], now["hash"])


def _draft(path: Path, purpose: str) -> Path:
    """Where a file's next version is written.

    One name for each file and purpose, as its writers take turns: what a killed server has left, the next one replaces.
    """
    return path.with_name(f".~{hashlib.sha256(path.name.encode()).hexdigest()[:16]}.{purpose}")


def _put_in_place(draft: Path, path: Path) -> None:
    """Let a complete draft, once it is on the disk, be the file."""
    with draft.open("rb") as file:
        if path.exists():
            os.fchmod(file.fileno(), path.stat().st_mode)
        os.fsync(file.fileno())
    draft.replace(path)


def _uploading(name: str, draft: Path) -> dict[str, Any]:
    """What the contents API tells of a file that is not complete yet."""
    now = datetime.now(UTC)
    absent = dict.fromkeys(("content", "format", "mimetype", "hash", "hash_algorithm"))
    return {"name": Path(name).name, "path": name, "type": "file", "created": now, "last_modified": now,
            "size": draft.stat().st_size, "writable": True, **absent}  # fmt: skip


def _replaceable(path: Path) -> bool:
    """Whether a new file may take this one's place: a link's target, or a file of somebody else's, is written into."""
    if not os.access(path.parent, os.W_OK):
        return False
    try:
        found = path.stat()
    except FileNotFoundError:
        return True
    return found.st_nlink == 1 and found.st_uid == os.getuid() and os.access(path, os.W_OK)
