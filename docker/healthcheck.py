"""Exit 0 when the server inside this container answers; used by the image's HEALTHCHECK."""

import os
import sys
import urllib.request

url = f"http://127.0.0.1:{os.environ.get('LAB_PORT', '8888')}/api"
try:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=4) as response:
        sys.exit(0 if response.status == 200 else 1)
except OSError as error:
    sys.exit(f"no answer at {url}: {error}")
