"""What cells print while no page shows it: kept, written into the notebook, and handed to the next page.

In JupyterLab the page owns a notebook's outputs: what a kernel sends while no page is open is lost. Here the server
listens too. Only the page knows which cell a request belongs to; it says so in the request's metadata (`cellId`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jupyter_client.session import Session
from jupyter_server.services.kernels.connection.base import deserialize_binary_message, deserialize_msg_from_ws_v1
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from nbformat import from_dict
from tornado.web import HTTPError
from tornado.websocket import WebSocketClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbformat import NotebookNode

WRITE_EVERY = 10  # seconds, as often as a page saves
LIMIT = 10 << 20  # characters of one cell's output that are kept; a loop that prints for ever fills no disk
HEAR_TRIES, HEAR_SECONDS = 50, 0.1
SETTLED_SECONDS = 1  # after which a new connection delivers everything
BUFFER = 64 << 20  # bytes of messages that wait for a page that sleeps
TOO_MUCH = "\n[The lab keeps no more than 10 MB of a cell's output while no page is open.]\n"
OVERWRITTEN = re.compile(r"[^\n]*\r(?=[^\n\r])")  # progress bars write over their own line
V1 = "v1.kernel.websocket.jupyter.org"


@dataclass
class Execution:
    """One run of one cell. `session`: the page that asked for it; `until`: when the newest message was sent."""

    request: str
    session: str
    cell_id: str
    count: int | None = None
    running: bool = True
    until: str = ""
    changed: bool = True
    _outputs: list[dict[str, Any]] = field(default_factory=list)
    _size: int = 0
    _clear: bool = False
    _displays: dict[str, dict[str, Any]] = field(default_factory=dict)

    def apply(self, message: dict[str, Any]) -> None:
        """Take in one message from the kernel, as a page would (the protocol: jupyter-client's messaging.html)."""
        kind, content = message["header"]["msg_type"], message["content"]
        self.until, self.changed = f"{message['header']['date']:%Y-%m-%dT%H:%M:%S.%f}", True
        if kind == "execute_input":
            self.count = content["execution_count"]
        elif kind == "status":
            self.running = content["execution_state"] != "idle"
        elif kind == "clear_output":
            self._clear = True
            if not content["wait"]:
                self._clear_now()
        elif kind == "update_display_data":
            shown = self._displays.get(content["transient"]["display_id"], {})
            shown.update(data=content["data"], metadata=content["metadata"])
        elif kind in {"stream", "display_data", "execute_result", "error"}:
            self._clear_now()
            self._add(kind, dict(content))

    def is_full(self, kind: str) -> bool:
        """Whether a message of this kind adds nothing: a flood is not even unpacked."""
        return kind == "stream" and self._size > LIMIT

    def document(self) -> list[NotebookNode]:
        """The outputs as a notebook holds them."""
        whole = [{**each, "text": "".join(each["text"])} if "text" in each else each for each in self._outputs]
        return [from_dict(each) for each in whole]

    def _clear_now(self) -> None:
        if self._clear:
            self._outputs, self._size, self._clear = [], 0, False

    def _add(self, kind: str, content: dict[str, Any]) -> None:
        room = LIMIT - self._size
        if room < 0 and kind != "error":  # how it ended is always told
            return
        transient = content.pop("transient", None) or {}
        too_much = len(json.dumps(content)) > room and kind != "error"
        if too_much:
            kind, content = "stream", {"name": "stderr", "text": content.get("text", "")[:room] + TOO_MUCH}
        previous = self._outputs[-1] if self._outputs else {}
        if kind == "stream" and previous.get("name") == content["name"]:
            self._size += _append(previous["text"], content["text"])
        else:
            self._size += len(json.dumps(content))
            self._begin(kind, content, transient)
        if too_much:
            self._size = LIMIT + 1

    def _begin(self, kind: str, content: dict[str, Any], transient: dict[str, Any]) -> None:
        output = {"output_type": kind, **content}
        if kind == "stream":
            output["text"] = [content["text"]]
        self._outputs.append(output)
        if "display_id" in transient:
            self._displays[transient["display_id"]] = output


def _append(parts: list[str], text: str) -> int:
    """Add text to a stream's parts; return by how much they grew.

    Only where text overwrites a line are parts joined, so that long streams stay cheap.
    """
    before = 0
    if "\r" in text or parts[-1].endswith("\r"):
        before = len(parts[-1])
        text = OVERWRITTEN.sub("", parts.pop() + text)
    parts.append(text)
    return len(text) - before


class Bounded(list[tuple[str, list[bytes]]]):
    """A list of messages that reports once when it holds too much, and then takes no more."""

    def __init__(self, report: Callable[[], None]) -> None:
        super().__init__()
        self._report, self._room = report, BUFFER

    def append(self, item: tuple[str, list[bytes]]) -> None:
        """Take a message, if there is room."""
        if self._room <= 0:
            return
        self._room -= sum(len(part) for part in item[1])
        if self._room > 0:
            super().append(item)
        else:
            self.clear()
            asyncio.get_running_loop().call_soon(self._report)


class KeepingConnection(ZMQChannelsWebsocketConnection):
    """A page's connection to a kernel, which notes for which cell the page asks."""

    def connect(self) -> asyncio.Future[None] | None:
        """Connect; the page's first request waits until the server listens too."""
        connected = super().connect()
        return asyncio.ensure_future(self._until_heard(connected)) if connected else None

    async def _until_heard(self, connected: asyncio.Future[None]) -> None:
        await connected
        if self.kernel_id in self.multi_kernel_manager:
            await self.multi_kernel_manager.hear(self.kernel_id)
            if self._tell("busy"):
                # The cell may have ended before this page was connected to the kernel.
                asyncio.get_running_loop().call_later(SETTLED_SECONDS, self._tell, "idle")

    def _tell(self, state: str) -> bool:
        """Tell the page its kernel's state, if it is this one: the kernel itself says so only when it changes."""
        is_there = self.kernel_id in self.multi_kernel_manager
        if not is_there or getattr(self.kernel_manager, "execution_state", None) != state:
            return False
        with contextlib.suppress(WebSocketClosedError):
            self._send_status_message(state)
        return True

    def handle_incoming_message(self, incoming_msg: Any) -> None:
        """Note an execution before the kernel can answer it."""
        request = None
        with contextlib.suppress(ValueError, LookupError):  # what is not a message is the base class's to refuse
            request = _cell_request(incoming_msg, self.subprotocol)
        if request:
            self.multi_kernel_manager.expect(self.kernel_id, request)
        super().handle_incoming_message(incoming_msg)


def _cell_request(message: Any, protocol: str | None) -> Execution | None:
    """Read a request to execute a cell; None: another message, or of a client that does not tell its cells."""
    if protocol == V1:
        channel, (header, _, metadata, *_) = deserialize_msg_from_ws_v1(message)
        if channel != "shell":
            return None
        header, metadata = json.loads(header), json.loads(metadata)
    else:
        parsed = deserialize_binary_message(message) if isinstance(message, bytes) else json.loads(message)
        header, metadata = parsed["header"], parsed["metadata"]
    if header["msg_type"] != "execute_request" or not metadata.get("cellId"):
        return None
    return Execution(header["msg_id"], header["session"], metadata["cellId"])


class KeepingKernelManager(AsyncMappingKernelManager):
    """Jupyter's kernels, whose outputs are kept until a page has saved them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._kept: dict[str, dict[str, Execution]] = {}
        self._streams: dict[str, Any] = {}
        self._heard: dict[str, asyncio.Event] = {}
        self._writer: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def expect(self, kernel_id: str, execution: Execution) -> None:
        """Keep what comes for a cell from now on; an earlier run of the same cell is over."""
        kept = self._kept.setdefault(kernel_id, {})
        for request in [each.request for each in kept.values() if each.cell_id == execution.cell_id]:
            del kept[request]
        kept[execution.request] = execution
        self._writer = self._writer or asyncio.create_task(self._write_now_and_then())

    def kept(self, kernel_id: str) -> list[Execution]:
        """What a page that connects, or connects again, has to be told."""
        return list(self._kept.get(kernel_id, {}).values())

    # The kernels' lives

    async def hear(self, kernel_id: str) -> None:
        """Listen to a kernel; return when it is known that its messages arrive: what comes before that is lost."""
        if kernel_id not in self._heard:
            self._listen(kernel_id)
        heard = self._heard[kernel_id]
        if heard.is_set():
            return
        kernel = self._kernels[kernel_id]
        control = kernel.connect_control()  # answers even while the kernel computes
        try:
            for _ in range(HEAR_TRIES):
                kernel.session.send(control, "kernel_info_request")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(heard.wait(), HEAR_SECONDS)
                    return
        finally:
            control.close()

    def _listen(self, kernel_id: str) -> None:
        """Listen beside Jupyter's own watching of the kernel."""
        kernel = self._kernels[kernel_id]
        session = Session(config=kernel.session.config, key=kernel.session.key)
        heard = self._heard[kernel_id] = asyncio.Event()

        def record(parts: list[bytes]) -> None:
            heard.set()
            kept = self._kept.get(kernel_id)
            if not kept:
                return
            _, parts = session.feed_identities(parts)
            message = session.deserialize(parts, content=False)
            execution = kept.get(message["parent_header"].get("msg_id"))
            if execution and not execution.is_full(message["header"]["msg_type"]):
                message["content"] = session.unpack(message["content"])
                execution.apply(message)
                if not execution.running:
                    self._write_soon(kernel_id)

        self._streams[kernel_id] = kernel.connect_iopub()
        self._streams[kernel_id].on_recv(record)

        def restarting() -> None:
            kernel.execution_state = "starting"  # as in a restart by hand; the dead one's "busy" would stay for ever
            self._end_all(kernel_id)

        self.add_restart_callback(kernel_id, restarting)

    def stop_watching_activity(self, kernel_id: str) -> None:
        """Listen no more."""
        super().stop_watching_activity(kernel_id)
        self._heard.pop(kernel_id, None)
        if stream := self._streams.pop(kernel_id, None):
            stream.close()

    async def restart_kernel(self, kernel_id: str, *args: Any, **options: Any) -> Any:
        """Start a kernel anew; what it was doing has ended."""
        self._end_all(kernel_id)
        return await super().restart_kernel(kernel_id, *args, **options)

    async def shutdown_kernel(self, kernel_id: str, *args: Any, **options: Any) -> Any:
        """End a kernel, after its last outputs are written."""
        await self._write(kernel_id)
        self._kept.pop(kernel_id, None)
        return await super().shutdown_kernel(kernel_id, *args, **options)

    async def shutdown_all(self, *args: Any, **options: Any) -> Any:
        """End all kernels, after their last outputs are written: the server stops."""
        for kernel_id in list(self._kept):
            await self._write(kernel_id)
        return await super().shutdown_all(*args, **options)

    def _end_all(self, kernel_id: str) -> None:
        """Nothing more comes for what a kernel was doing."""
        for execution in self._kept.get(kernel_id, {}).values():
            execution.running = False

    # A page that went to sleep

    def start_buffering(self, kernel_id: str, session_key: str, channels: dict[str, Any]) -> None:
        """Keep a sleeping page's messages for it, as Jupyter does, but not without end.

        Beyond, the page learns the outputs from what is kept when it wakes.
        """
        super().start_buffering(kernel_id, session_key, channels)
        self._kernel_buffers[kernel_id]["buffer"] = Bounded(lambda: self.stop_buffering(kernel_id))
        self._write_soon(kernel_id)  # what the page had no time to save

    # Writing

    def _write_soon(self, kernel_id: str) -> None:
        """Write at once, without waiting for it: whatever stops the server next loses nothing of that."""
        task = asyncio.ensure_future(self._write(kernel_id))
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)

    async def _write_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY)
            for kernel_id in list(self._kept):
                await self._write(kernel_id)

    async def write_path(self, path: str) -> None:
        """Write what is kept for a notebook."""
        for kernel_id in list(self._kept):
            if self._unwritten(kernel_id) and await self._path(kernel_id) == path:
                await self._write(kernel_id)

    def _unwritten(self, kernel_id: str) -> list[Execution]:
        """What is new, unless a page is there: it saves by itself. Asked at every reading of a file."""
        if kernel_id in self and self._kernel_connections.get(kernel_id):
            return []
        return [each for each in self._kept.get(kernel_id, {}).values() if each.changed]

    async def _write(self, kernel_id: str) -> None:
        """Write what is new."""
        changed = self._unwritten(kernel_id)
        if not changed:
            return
        path = await self._path(kernel_id)
        if not path:
            self._kept.pop(kernel_id, None)
            return
        for execution in changed:
            execution.changed = False
        try:
            await self.parent.contents_manager.complete(path, changed)
        except (HTTPError, OSError) as error:
            self.log.warning("The outputs of %s could not be written: %s", path, error)
            if getattr(error, "status_code", None) == 404:  # the notebook was deleted
                self._kept.pop(kernel_id, None)
            for execution in changed:
                execution.changed = True

    async def _path(self, kernel_id: str) -> str | None:
        """The notebook that a kernel belongs to."""
        try:
            session = await self.parent.session_manager.get_session(kernel_id=kernel_id)
        except (HTTPError, KeyError):  # a console's kernel, or one that is gone
            return None
        return str(session["path"]) if session["type"] == "notebook" else None

    async def forget_saved(self, path: str) -> None:
        """A page has saved the notebook: what has ended is in the file, as the page wants it."""
        for kernel_id, kept in list(self._kept.items()):
            if all(each.running for each in kept.values()):
                continue  # nothing to forget, nothing to ask the database
            if await self._path(kernel_id) == path:
                self._kept[kernel_id] = {key: each for key, each in kept.items() if each.running}
