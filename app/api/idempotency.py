"""Recording of answers, and their replay to clients that repeat a request with the same ``Idempotency-Key``."""

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from app.api.problems import KeyReused
from app.api.schemas import InspectionResponse
from app.history.broadcast import EventBroadcaster
from app.history.journal import Journal
from app.history.records import InspectionRecord, Keep, StoredAnswer, StoredImage
from app.store.errors import StoreUnusable

# Maximum number of responses cached in memory; clients usually retry soon.
MAX_CACHED_ANSWERS = 64
# Maximum time that a response waits for the disk.
MAX_WAIT_S = 1.0
MEDIA_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg", b"BM": "image/bmp", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class IdempotentRequest:
    """A request with an idempotency key.

    ``key``: hash of product, API key and client's key; ``fingerprint``: of the content.
    """

    key: str
    fingerprint: str

    @classmethod
    def from_parts(
        cls, key: str, *, holder: str | None, product: str, query: object, data: bytes
    ) -> "IdempotentRequest":
        """Create a request. ``holder``: name of the API key; two API keys never share an idempotency key."""
        scope = json.dumps([product, holder, key])
        digest = hashlib.sha256(repr(query).encode())
        digest.update(data)
        return cls(hashlib.sha256(scope.encode()).hexdigest(), digest.hexdigest())


@dataclass(frozen=True)
class Recorder:
    """Records answers and broadcasts them.

    ``journal``: None where no history is kept. ``keeps``: which images are stored. ``waits``: whether an answer waits
    until it is recorded, for at most ``MAX_WAIT_S``.
    """

    journal: Journal | None
    broadcaster: EventBroadcaster
    keeps: Keep = "none"
    waits: bool = False

    async def record(
        self, answer: InspectionResponse, data: bytes, request: IdempotentRequest | None = None, *, whole: str = ""
    ) -> None:
        """Record and broadcast an answer. A disk error loses the record, never the answer.

        ``whole``: the full response text, kept for clients that repeat the request.
        """
        if self.journal is None and not self.broadcaster.has_subscribers:
            return
        text = answer.model_dump_json(exclude={"heatmap"})  # which the image gives again
        self.broadcaster.broadcast(text)
        if self.journal is None:
            return
        record = InspectionRecord(
            inspection_id=answer.inspection_id,
            at=time.time(),
            product=answer.product,
            version=answer.version,
            part_id=answer.part_id,
            verdict=answer.verdict,
            score=answer.score,
            answer=text,
            idempotency_key=request.key if request else None,
        )
        replay = StoredAnswer(request.fingerprint, whole) if request else None
        is_kept = self.keeps in ("all", answer.verdict)
        written = self.journal.add(record, StoredImage(detect_media_type(data), data) if is_kept else None, replay)
        if self.waits or request is not None:
            waiting = asyncio.wrap_future(written)
            # The journal reports lost records; retrieving the exception only prevents a warning of asyncio.
            waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait({waiting}, timeout=MAX_WAIT_S)


class RequestAbandoned(Exception):
    """The first request failed; waiters must compute the answer themselves."""


@dataclass
class IdempotencyCache:
    """Answers by idempotency key: finished ones, and futures of requests in progress."""

    journal: Journal | None
    _readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="replays"))
    _answers: "OrderedDict[str, tuple[str, asyncio.Future[str]]]" = field(default_factory=OrderedDict)

    async def get_or_compute(
        self,
        request: IdempotentRequest,
        compute: Callable[[], Awaitable[str]],
        wait: Callable[[Awaitable[str]], Awaitable[str]],
    ) -> tuple[str, bool]:
        """Return the answer to a request, computed once, and whether it is a replay.

        ``wait`` bounds the wait for a request in progress. Raises KeyReused, and what ``compute`` and ``wait`` raise.
        """
        while (known := self._answers.get(request.key)) is not None:
            asked, answer = known
            if asked != request.fingerprint:
                raise KeyReused
            with suppress(RequestAbandoned):
                return await wait(asyncio.shield(answer)), True
        answer = asyncio.get_running_loop().create_future()
        self._answers[request.key] = (request.fingerprint, answer)
        try:
            before = await self._read_journal(request)
            text = before if before is not None else await compute()
        except BaseException:
            answer.set_exception(RequestAbandoned())
            answer.exception()  # retrieved here, since there may be no other waiter
            del self._answers[request.key]  # what failed may be tried again
            raise
        answer.set_result(text)
        self._evict()
        return text, before is not None

    def _evict(self) -> None:
        """Drop the oldest finished answers beyond ``MAX_CACHED_ANSWERS``."""
        done = [key for key, (_, answer) in self._answers.items() if answer.done()]
        for key in done[: max(0, len(done) - MAX_CACHED_ANSWERS)]:
            del self._answers[key]

    async def _read_journal(self, request: IdempotentRequest) -> str | None:
        """Return the answer that was recorded before this process started, or None.

        A slow or failing disk counts as None.
        """
        if self.journal is None:
            return None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                replay = await loop.run_in_executor(self._readers, self.journal.read_replay, request.key)
        except (StoreUnusable, TimeoutError):
            return None
        if replay is None:
            return None
        if replay.fingerprint != request.fingerprint:
            raise KeyReused
        return replay.answer


def detect_media_type(data: bytes) -> str:
    """Return the media type of an image by its first bytes."""
    return next((kind for begins, kind in MEDIA_TYPES.items() if data.startswith(begins)), "image/tiff")
