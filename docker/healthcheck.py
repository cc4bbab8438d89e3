"""Exit 0 when the server inside this container answers and its GPU, if it has one, is still there.

Used by the image's HEALTHCHECK, so quick and small.
"""

import http.client
import os
import ssl
import subprocess
import sys

port = int(os.environ.get("LAB_PORT", "8888"))
if os.environ.get("LAB_TLS_CERT"):
    unverified = ssl._create_unverified_context()  # noqa: S323 - itself, on its own loopback; nothing is told
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=4, context=unverified)
else:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
try:
    connection.request("GET", "/api")
    status = connection.getresponse().status
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"no answer on port {port}: {error}")
if status != 200:
    sys.exit(f"status {status} on port {port}, expected 200")
# A daemon-reload on the host can take the devices away from a running container.
if os.environ.get("LAB_GPU") and subprocess.run(["nvidia-smi", "-L"], check=False).returncode:
    sys.exit("the GPU is lost: make restart gives it back")
