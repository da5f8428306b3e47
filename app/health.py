"""``goodpart health``: whether the service of this machine answers; what a container's health check runs.

It imports nothing of ours: a check that comes every few seconds must not take the processor from those it asks about.
"""

import http.client
import os
import ssl
import sys
from collections.abc import Mapping, Sequence

TIMEOUT_S = 4.0
USAGE = "usage: goodpart health [--ready]"
PATHS = {(): "/livez", ("--ready",): "/readyz"}


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 where it answers as it should, 1 where it does not, 2 where nobody knows what is asked."""
    path = PATHS.get(tuple(arguments))
    if path is None:
        print(USAGE, file=sys.stderr)  # noqa: T201  # before click is there
        return 2
    trouble = trouble_at(path, os.environ)  # noqa: TID251  # as above: the settings object takes pydantic
    if trouble is not None:
        print(f"goodpart: error: {trouble}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def trouble_at(path: str, variables: Mapping[str, str]) -> str | None:
    """What is wrong with the service that these variables describe; None where nothing is."""
    port = int(variables.get("GOODPART_HEALTH_PORT") or variables.get("GOODPART_PORT") or 8000)
    host = f"127.0.0.1:{port}"
    try:
        connection = connected(host, has_tls="GOODPART_TLS_CERT" in variables)
        connection.request("GET", path)
        answer = connection.getresponse()
        said = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"nothing answers at {host}: {error}"
    return None if answer.status == http.HTTPStatus.OK else f"{path} of {host} answers {answer.status}: {said}"


def connected(host: str, *, has_tls: bool) -> http.client.HTTPConnection:
    """A connection past any proxy; the certificate is for the name that others use, so it is not looked at here."""
    if not has_tls:
        return http.client.HTTPConnection(host, timeout=TIMEOUT_S)
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, timeout=TIMEOUT_S, context=trusting)
