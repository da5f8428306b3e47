"""Asks a Goodpart service: is this part good? ``Client`` waits, ``AsyncClient`` is awaited; both answer alike."""

from goodpart_client.answers import Heatmap, Inspection, Region
from goodpart_client.clients import AsyncClient, Client
from goodpart_client.errors import ClientError, NoAnswerError, ProblemError

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Heatmap",
    "Inspection",
    "NoAnswerError",
    "ProblemError",
    "Region",
]
