"""A Jupyter client for the tests: what a browser does over HTTP and websocket, without one."""

from __future__ import annotations

import json
import ssl
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import websocket

if TYPE_CHECKING:
    from collections.abc import Iterator


class Server(Protocol):
    """A running lab: the container's, or run-local's."""

    @property
    def url(self) -> str:
        """The address, without token."""

    @property
    def token(self) -> str:
        """The token."""


@contextmanager
def api(lab: Server, **options: Any) -> Iterator[httpx.Client]:
    """An HTTP client that sends the token in its header."""
    headers = {"Authorization": f"token {lab.token}"}
    # Certificates are test_tls's to check; everybody else talks to the lab that the test has started.
    options = {"base_url": lab.url, "headers": headers, "timeout": 60, "trust_env": False, **options}
    with httpx.Client(**options, verify=False) as client:  # noqa: S501
        yield client


class Kernel:
    """A running kernel and the websocket to it."""

    def __init__(self, identity: str, socket: websocket.WebSocket) -> None:
        self.identity = identity
        self.socket = socket

    def run(self, code: str, *, timeout: float = 120, **metadata: str) -> str:
        """Execute code; return its text output, tracebacks included."""
        self.socket.settimeout(timeout)
        return "".join(self.outputs(self.send(code, **metadata)))

    def send(self, code: str, **metadata: str) -> str:
        """Ask for code to be executed, without waiting for anything; return the request's id."""
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        return self._send("shell", "execute_request", content, metadata)

    def _send(self, channel: str, kind: str, content: dict[str, Any], metadata: dict[str, str]) -> str:
        identity = uuid.uuid4().hex
        header = {"msg_id": identity, "msg_type": kind, "username": "t", "session": "t", "version": "5.3"}
        message = {"header": header, "parent_header": {}, "metadata": metadata, "content": content, "channel": channel}
        self.socket.send(json.dumps(message))
        return identity

    def send_to_debugger(self, command: str, **arguments: Any) -> str:
        """Ask the debugger (the Debug Adapter Protocol), without waiting for anything; return the request's id."""
        content = {"type": "request", "seq": 1, "command": command, "arguments": arguments}
        return self._send("control", "debug_request", content, {})

    def debug(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Ask the debugger; return its answer's body."""
        identity = self.send_to_debugger(command, **arguments)
        while True:
            message = json.loads(self.socket.recv())
            if message["msg_type"] == "debug_reply" and message["parent_header"]["msg_id"] == identity:
                assert message["content"]["success"], f"{command}: {message['content']}"
                return dict(message["content"].get("body") or {})

    def wait_for_debugger(self, event: str) -> dict[str, Any]:
        """Read until the debugger tells an event; return its body."""
        while True:
            message = json.loads(self.socket.recv())
            if message["msg_type"] == "debug_event" and message["content"]["event"] == event:
                return dict(message["content"]["body"])

    def wait_for_state(self, state: str, *, timeout: float = 120) -> None:
        """Read until the kernel, or the server for it, says that it is busy, idle, or restarting."""
        self.socket.settimeout(timeout)
        while json.loads(self.socket.recv())["content"].get("execution_state") != state:
            pass

    def outputs(self, identity: str) -> Iterator[str]:
        """The texts that belong to one request, until the kernel is idle again."""
        while True:
            message = json.loads(self.socket.recv())
            if message["parent_header"].get("msg_id") != identity:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                yield content["text"]
            elif kind in {"execute_result", "display_data"}:
                yield content["data"].get("text/plain", "")
            elif kind == "error":
                yield "\n".join(content["traceback"])
            elif kind == "status" and content["execution_state"] == "idle":
                return


@contextmanager
def kernel(lab: Server) -> Iterator[Kernel]:
    """Start a kernel, connect to it, and end it."""
    with api(lab) as client:
        identity = client.post("/api/kernels", json={"name": "python3"}).raise_for_status().json()["id"]
        try:
            with connection(lab, identity) as connected:
                yield connected
        finally:
            client.delete(f"/api/kernels/{identity}")


@contextmanager
def connection(lab: Server, identity: str, *, session: str | None = None) -> Iterator[Kernel]:
    """Connect to a kernel that runs; `session`: the page whose connection it is."""
    address = f"{lab.url.replace('http', 'ws')}/api/kernels/{identity}/channels?token={lab.token}"
    address += f"&session_id={session}" if session else ""
    socket = websocket.create_connection(address, timeout=60, sslopt={"cert_reqs": ssl.CERT_NONE})
    try:
        yield Kernel(identity, socket)
    finally:
        socket.close()
