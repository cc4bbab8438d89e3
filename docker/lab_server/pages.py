"""What the lab's extension of JupyterLab asks the server: the outputs that its page has not seen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

KERNEL = r"(?P<kernel_id>\w+-\w+-\w+-\w+-\w+)"


class OutputsHandler(APIHandler):
    """GET lab-outputs/<kernel>: the executions that no page has saved yet."""

    @web.authenticated
    def get(self, kernel_id: str) -> None:
        """Answer a list of {request, session, cell_id, outputs, count, running, until}."""
        kept = self.kernel_manager.kept(kernel_id)
        names = ("request", "session", "cell_id", "count", "running", "until")
        answer = [{**{name: getattr(each, name) for name in names}, "outputs": each.document()} for each in kept]
        self.finish(json.dumps(answer))


def add_handlers(app: ServerApp) -> None:
    """Have the server answer."""
    path = url_path_join(app.web_app.settings["base_url"], "lab-outputs", KERNEL)
    app.web_app.add_handlers(".*$", [(path, OutputsHandler)])
