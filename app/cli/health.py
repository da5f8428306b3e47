"""``goodpart health``: whether the service of this machine answers; what a container's health check runs.

It imports nothing of ours: a check that comes every few seconds must not take the processor from those it asks about.
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
    port = variables.get("GOODPART_HEALTH_PORT") or variables.get("GOODPART_PORT") or "8000"
    given = variables.get("GOODPART_HOST", "")
    host = f"{given if given and given not in EVERYWHERE else '127.0.0.1'}:{port}"
    try:
        status, said = answer_of(host, path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"nothing answers at {host}: {error}"
    return None if status == http.HTTPStatus.OK else f"{path} of {host} answers {status}: {said}"


def answer_of(host: str, path: str) -> tuple[int, str]:
    """What is answered, over TLS where there is no answer without; no proxy is asked."""
    try:
        return asked(http.client.HTTPConnection(host, timeout=TIMEOUT_S), path)
    except (http.client.HTTPException, ConnectionResetError):
        trusting = ssl.create_default_context()
        # The certificate is for the name that others use.
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        return asked(http.client.HTTPSConnection(host, timeout=TIMEOUT_S, context=trusting), path)


def asked(connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    """Status and text."""
    with closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
