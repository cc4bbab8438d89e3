"""Exit 0 when the server inside this container answers; used by the image's HEALTHCHECK, so quick and small."""

import http.client
import os
import sys

port = int(os.environ.get("LAB_PORT", "8888"))
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
try:
    connection.request("GET", "/api")
    status = connection.getresponse().status
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"no answer on port {port}: {error}")
sys.exit(None if status == 200 else f"status {status} on port {port}, expected 200")
