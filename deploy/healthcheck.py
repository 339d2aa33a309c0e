"""Whether the site in this container is well, as the exit status: python deploy/healthcheck.py"""

import http.client
import os
import sys

connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["PORT"]), timeout=4)  # a 503 comes after 3 s
try:
    connection.request("GET", "/healthz", headers={"Host": "healthz"})
    status = connection.getresponse().status
except OSError as error:
    sys.exit(f"/healthz does not answer: {error}")
if status != 200:
    sys.exit(f"/healthz answers {status}")
