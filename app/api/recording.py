"""What becomes of an answer: it is recorded, shown to who watches, and given again to a client that asks again."""

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio.to_thread

from app.api.answers import InspectionAnswer
from app.api.problems import KeyReused
from app.records.journal import Journal, Keep, Picture, Record
from app.records.live import Live
from app.store.errors import StoreUnusable

# Answers with a key that are at hand without the disk; a client that asks again does so soon.
MOST_AT_HAND = 256
MEDIA_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg", b"BM": "image/bmp", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Request:
    """A request that its client may send again: ``key`` is what the client calls it, ``asked`` what it was."""

    key: str
    asked: str

    @classmethod
    def of(cls, key: str, *, holder: str | None, product: str, query: object, data: bytes) -> "Request":
        """The request of these parts. ``holder``: whose API key it came with; others have keys of their own."""
        scope = json.dumps([product, holder, key])
        digest = hashlib.sha256(repr(query).encode())
        digest.update(data)
        return cls(hashlib.sha256(scope.encode()).hexdigest(), digest.hexdigest())


@dataclass(frozen=True)
class Recording:
    """Where answers are told.

    ``journal``: None where nothing is kept. ``keeps``: the images of which parts. ``waits``: whether an answer is given
    only once it is recorded, since somebody is owed it.
    """

    journal: Journal | None
    live: Live
    keeps: Keep = "none"
    waits: bool = False

    async def told(self, answer: InspectionAnswer, data: bytes, request: Request | None = None) -> None:
        """Record an answer, and show it. What the disk does not take costs the record, never the answer."""
        if self.live.is_watched:
            self.live.tell(shown(answer))
        if self.journal is None:
            return
        text = shown(answer) if request is None else answer.model_dump_json()
        record = Record(
            inspection_id=answer.inspection_id,
            at=time.time(),
            product=answer.product,
            version=answer.version,
            part_id=answer.part_id,
            verdict=answer.verdict,
            score=answer.score,
            answer=text,
            idempotency_key=request.key if request else None,
            asked=request.asked if request else None,
        )
        is_kept = self.keeps in ("all", answer.verdict)
        done = self.journal.add(record, Picture(media_type_of(data), data) if is_kept else None)
        if self.waits:
            await asyncio.wait({asyncio.wrap_future(done)})


class Withdrawn(Exception):  # as all our errors
    """A request that was not answered: who waits for the same answer asks for it."""


@dataclass
class Replays:
    """Requests that came with a key, and what they were answered; of those under way, what they will be."""

    journal: Journal | None
    _answers: "OrderedDict[str, tuple[str, asyncio.Future[str]]]" = field(default_factory=OrderedDict)

    async def answered(self, request: Request, judged: Callable[[], Awaitable[str]]) -> tuple[str, bool]:
        """The first answer to a request, which is judged only once, and whether it was given before.

        Raises KeyReused, and what ``judged`` raises.
        """
        while (known := self._answers.get(request.key)) is not None:
            asked, answer = known
            if asked != request.asked:
                raise KeyReused
            with suppress(Withdrawn):
                return await asyncio.shield(answer), True
        answer = asyncio.get_running_loop().create_future()
        self._answers[request.key] = (request.asked, answer)
        try:
            before = await self._from_journal(request)
            text = before if before is not None else await judged()
        except BaseException:
            del self._answers[request.key]  # what failed may be tried again
            answer.set_exception(Withdrawn())
            answer.exception()  # seen here: perhaps nobody else waits for it
            raise
        answer.set_result(text)
        while len(self._answers) > MOST_AT_HAND:
            self._answers.popitem(last=False)
        return text, before is not None

    async def _from_journal(self, request: Request) -> str | None:
        """The answer of a request before this process began; none where it can't be read, since judging goes on."""
        if self.journal is None:
            return None
        try:
            record = await anyio.to_thread.run_sync(self.journal.by_key, request.key)
        except StoreUnusable:
            return None
        if record is None:
            return None
        if record.asked != request.asked:
            raise KeyReused
        return record.answer


def shown(answer: InspectionAnswer) -> str:
    """An answer without its heat-map, which the image gives again."""
    return answer.model_dump_json(exclude={"heatmap"})


def media_type_of(data: bytes) -> str:
    """The media type of an image that was judged, by its first bytes."""
    return next((kind for begins, kind in MEDIA_TYPES.items() if data.startswith(begins)), "image/tiff")
