"""The server's settings, for the container and for `make run-local`; the variable parts come from the environment."""

import hashlib
import logging
import os
import site
import ssl
import sys
import warnings
from pathlib import Path

import lab_server

c = get_config()  # noqa: F821 - Jupyter provides it


def keep_out_of_logs(secret: str) -> None:
    """Replace a secret in every log record of this process: error lines repeat the URLs that people opened."""
    make_record = logging.getLogRecordFactory()

    def make_clean_record(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        text = record.getMessage()
        if secret in text:
            record.msg, record.args = text.replace(secret, "[token]"), ()
        return record

    logging.setLogRecordFactory(make_clean_record)


# The token reaches the server as a file: argv and environment show in `ps` and `docker inspect`. Without a token
# the server must not start; an ordinary exception here would only be logged.
token_file = Path(os.environ.get("LAB_TOKEN_FILE", "/run/lab/token"))
try:
    token = token_file.read_text().strip()
except OSError as error:
    sys.exit(f"error: no token at {token_file} ({error.strerror}); start the lab with 'make run-cpu'")
if len(token) < 32:
    sys.exit(f"error: the token at {token_file} is empty or too short; 'make token-rotate' makes a new one")
c.IdentityProvider.token = token
c.ServerApp.identity_provider_class = "lab_server.identity.GuardedIdentityProvider"
c.PasswordIdentityProvider.allow_password_change = False  # a second secret would outlive a rotated token
keep_out_of_logs(token)
# Sessions survive a restart, and end when the token is rotated.
c.ServerApp.cookie_secret = hashlib.sha256(b"cookie secret of " + token.encode()).digest()
# Closes every endpoint that does not open itself, so the warning about unmarked ones has nothing to warn of.
c.ServerApp.allow_unauthenticated_access = False
warnings.filterwarnings("ignore", message="Extension endpoints without @allow_unauthenticated")
c.ServerApp.allow_root = os.getuid() == 0  # the container never is; a root-owned laptop's run-local may be

c.ServerApp.ip = os.environ.get("LAB_IP", "0.0.0.0")  # noqa: S104 - the published port decides who reaches it
c.ServerApp.port = int(os.environ.get("LAB_PORT", "8888"))
c.ServerApp.certfile = os.environ.get("LAB_TLS_CERT", "")
c.ServerApp.keyfile = os.environ.get("LAB_TLS_KEY", "")
if c.ServerApp.certfile:
    # From TLS 1.2 on; Jupyter's own default is deprecated.
    c.ServerApp.ssl_options = {"ssl_version": ssl.PROTOCOL_TLS_SERVER}
c.ServerApp.port_retries = 0  # another port would not be the published one
c.ServerApp.allow_remote_access = True
c.ServerApp.root_dir = os.environ.get("LAB_WORKSPACE", "/workspace")
c.ServerApp.open_browser = False
c.ServerApp.quit_button = False  # the engine would start it again

# What does nothing here costs start-up time and memory all the same: no language server is installed, and the git
# extension has its own view of a notebook's changes.
c.ServerApp.jpserver_extensions = {"jupyter_lsp": False, "notebook_shim": False, "nbdime": False, "lab_server": True}
# Files are saved whole, and outputs that arrive while no page is open are kept.
c.ServerApp.contents_manager_class = "lab_server.contents.WholeFilesManager"
c.ServerApp.kernel_manager_class = "lab_server.outputs.KeepingKernelManager"
c.ServerApp.kernel_websocket_connection_class = "lab_server.outputs.KeepingConnection"
c.LabApp.extra_labextensions_path = [str(Path(lab_server.__file__).parent / "labextensions")]
# Nobody is asked about news, and no server but the lab is contacted.
c.LabApp.check_for_updates_class = "jupyterlab.handlers.announcements.NeverCheckForUpdate"
c.LabApp.news_url = None
c.LabApp.extension_manager = "readonly"

# A login shell, the default, would lose PATH to /etc/profile.
c.ServerApp.terminado_settings = {"shell_command": [os.environ.get("SHELL", "/bin/bash")]}
# Jupyter and Tornado read one setting of theirs each their own way: a timeout that Tornado likes, no longer than the
# interval, has Jupyter close every connection after 30 seconds. The default is right; what Tornado says of it is not.
logging.getLogger("tornado.general").addFilter(lambda record: "websocket_ping_timeout" not in record.getMessage())
if c.ServerApp.certfile:
    # The session's cookie is so by itself.
    c.ServerApp.tornado_settings = {"xsrf_cookie_kwargs": {"secure": True}}
# Kernels speak over Unix sockets: nothing on a port that another process could listen to.
c.KernelManager.transport = "ipc"

# TensorBoard behind the lab's own address and token: a button in the launcher, and %tensorboard in a notebook.
c.ServerProxy.servers = {
    "tensorboard": {
        "command": ["tensorboard", "--logdir=.", "--port={port}", "--path_prefix={base_url}tensorboard"],
        "absolute_url": True,
        "timeout": 60,  # seconds to its first answer; a small machine needs more than the default 5
        "launcher_entry": {"title": "TensorBoard", "category": "Other"},
    }
}
os.environ.setdefault("TENSORBOARD_PROXY_URL", "/proxy/%PORT%/")

# Idle kernels end after so many seconds, a tab left open or not; busy ones never. 0: never. Terminals stay: whether
# a silent one is idle or training cannot be told.
idle = int(os.environ.get("LAB_IDLE_TIMEOUT", "0"))
c.MappingKernelManager.cull_idle_timeout = idle
c.MappingKernelManager.cull_interval = max(5, min(300, idle // 4))
c.MappingKernelManager.cull_connected = True

# Python puts the user's packages on its path only if their folder is there when it starts: without this the first
# %pip install would need a kernel restart.
if site.ENABLE_USER_SITE:
    try:
        Path(site.getusersitepackages()).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"error: user {os.getuid()} cannot write to {Path.home()} ({error.strerror}); mount one of theirs")

c.ResourceUseDisplay.track_cpu_percent = True
# Its question to a kernel, and those about subshells, come beside the cells: a "busy" or an "idle" of theirs says
# nothing about the cell that runs.
c.MappingKernelManager.untracked_message_types.extend(
    ["usage_request", "usage_reply", "create_subshell_request", "delete_subshell_request", "list_subshell_request"]
)
# Its figures for Prometheus stop the whole server every second, 50 ms for each kernel; the meter does not need them.
c.ResourceUseDisplay.enable_prometheus_metrics = False
warnings.filterwarnings("ignore", message="date_default is deprecated")  # the meter's, at its every answer
