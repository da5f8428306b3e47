"""Errors of a request to a service."""

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """Root of the client's errors."""


class ProblemError(ClientError):
    """A problem that the service answered with (RFC 9457). ``slug``: the stable end of its type."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.slug = str(problem.get("type", "")).rpartition(":")[2]
        self.detail = str(problem.get("detail") or problem.get("title") or f"status {status}")
        super().__init__(f"{self.slug or status}: {self.detail}")


class NoAnswerError(ClientError):
    """No answer before the deadline."""
