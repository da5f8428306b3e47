"""One call, whatever carries it: what is sent, whether it is worth trying again, and when."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import httpx2

from goodpart_client.answers import Inspection
from goodpart_client.errors import NoAnswerError, ProblemError

Kind = Literal["png", "overlay", "raw", "none"]
# To send these again may be answered otherwise: too full, not ready yet, too slow a network, a failing proxy.
WORTH_TRYING = {408, 425, 429, 502, 503, 504}
MIN_PAUSE_S, MAX_PAUSE_S = 0.1, 5.0


def read_image(image: bytes | str | Path) -> bytes:
    """Return the image's bytes, given as bytes or as a file."""
    return image if isinstance(image, bytes) else Path(image).read_bytes()


@dataclass
class Call:
    """An inspection that is requested until ``deadline_s`` have passed."""

    product: str
    image: bytes
    query: Mapping[str, Any]
    deadline_s: float
    key: str = field(default_factory=lambda: uuid4().hex)
    num_tries: int = 0
    trouble: str = "nothing was tried"
    began: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float:
        """Seconds until the answer is of no use any more."""
        return self.deadline_s - (time.monotonic() - self.began)

    def _too_late(self) -> NoAnswerError:
        return NoAnswerError(f"no answer within {self.deadline_s:g} s and {self.num_tries} tries: {self.trouble}")

    def request(self) -> dict[str, Any]:
        """The arguments of one try. Raises NoAnswerError where there is no time for one."""
        if self.left_s <= 0:
            raise self._too_late()
        self.num_tries += 1
        return {
            "url": f"/v1/products/{self.product}/inspect",
            "content": self.image,
            "params": {name: value for name, value in self.query.items() if value is not None},
            "headers": {
                "Content-Type": "application/octet-stream",
                "Idempotency-Key": self.key,
                "X-Deadline-Ms": f"{self.left_s * 1000:.0f}",
            },
            "timeout": self.left_s,
        }

    def parse_response(self, answer: httpx2.Response) -> Inspection | None:
        """Return the inspection of a response, or None where a retry may help. Raises ProblemError."""
        if answer.is_success:
            return Inspection.of(answer.json())
        try:
            problem = answer.json()
        except ValueError:
            problem = {}
        error = ProblemError(answer.status_code, problem if isinstance(problem, dict) else {})
        if answer.status_code not in WORTH_TRYING:
            raise error
        self.trouble = str(error)
        return None

    def pause_s(self, answer: httpx2.Response | None) -> float:
        """How long to wait before the next try: as the service asks, or longer each time. Raises NoAnswerError."""
        asked = answer.headers.get("retry-after", "") if answer is not None else ""
        grown = min(MIN_PAUSE_S * 2.0 ** (self.num_tries - 1), MAX_PAUSE_S) * random.uniform(0.5, 1.0)  # noqa: S311
        pause: float = max(grown, float(asked) if asked.isdecimal() else 0.0)
        if pause >= self.left_s:
            raise self._too_late()
        return pause


def make_call(
    product: str,
    image: bytes | str | Path,
    *,
    part_id: str | None,
    heatmap: Kind,
    version: str | None,
    deadline_s: float,
) -> Call:
    """Return the call of these arguments."""
    query = {"part_id": part_id, "heatmap": heatmap, "version": version}
    return Call(product, read_image(image), query, deadline_s)
