"""``goodpart health``: whether the service on this machine answers; run by the container's health check.

It imports no other module of the project, since it runs every few seconds.
"""

import http.client
import os
import ssl
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing

TIMEOUT_S = 2.0
EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104  # where a service listens, not this
USAGE = "usage: goodpart health [--ready]"
PATHS = {(): "/livez", ("--ready",): "/readyz"}


def main(arguments: Sequence[str]) -> int:
    """Return the exit code: 0 if the answer is good, 1 if it is not, 2 for invalid arguments."""
    path = PATHS.get(tuple(arguments))
    if path is None:
        print(USAGE, file=sys.stderr)  # noqa: T201  # before click is there
        return 2
    error = find_error(path, os.environ)  # noqa: TID251  # as above: the settings object takes pydantic
    if error is not None:
        print(f"goodpart: error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def find_error(path: str, variables: Mapping[str, str]) -> str | None:
    """Return the error of the service that these variables describe, or None."""
    port = variables.get("GOODPART_HEALTH_PORT") or variables.get("GOODPART_PORT") or "8000"
    given = variables.get("GOODPART_HOST", "")
    host = f"{given if given and given not in EVERYWHERE else '127.0.0.1'}:{port}"
    try:
        status, text = fetch(host, path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"nothing answers at {host}: {error}"
    return None if status == http.HTTPStatus.OK else f"{path} of {host} answers {status}: {text}"


def fetch(host: str, path: str) -> tuple[int, str]:
    """Return status and text, by TLS if plain HTTP fails. Proxies are ignored."""
    try:
        return send_request(http.client.HTTPConnection(host, timeout=TIMEOUT_S), path)
    except (http.client.HTTPException, ConnectionResetError):
        trusting = ssl.create_default_context()
        # The certificate is for the public host name, not for loopback.
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        return send_request(http.client.HTTPSConnection(host, timeout=TIMEOUT_S, context=trusting), path)


def send_request(connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    """Return status and text."""
    with closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
