"""A client that posts a part, reads the answer, and posts the next, until it is stopped."""

import threading
import time
from dataclasses import dataclass, field

import httpx2

PAUSE_S = 0.02


@dataclass(frozen=True)
class Answer:
    """What came back, and when by ``time.monotonic``."""

    at: float
    version: str
    score: float


@dataclass
class Load:
    """One client of the service at ``address``."""

    address: str
    product: str
    image: bytes
    ends: threading.Event = field(default_factory=threading.Event)
    answers: list[Answer] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def start(self) -> threading.Thread:
        """Begin, in a thread of its own."""
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        return thread

    def run(self) -> None:
        """Post until stopped."""
        url = f"/v1/products/{self.product}/inspect"
        with httpx2.Client(base_url=f"http://{self.address}", timeout=30, trust_env=False) as client:
            while not self.ends.is_set():
                try:
                    answer = client.post(url, content=self.image, headers={"content-type": "image/png"})
                    answer.raise_for_status()
                    body = answer.json()
                    self.answers.append(Answer(time.monotonic(), body["version"], body["score"]))
                except Exception as error:  # noqa: BLE001  # whatever it is, it is a request that failed
                    self.failed.append(f"{type(error).__name__}: {error}")
                time.sleep(PAUSE_S)

    @property
    def num_requests(self) -> int:
        """Those that were answered, and those that failed."""
        return len(self.answers) + len(self.failed)

    @property
    def versions(self) -> set[str]:
        """Those that answered."""
        return {answer.version for answer in self.answers}
