"""What becomes of an answer: it is recorded, shown to who watches, and given again to a client that asks again."""

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
from app.api.schemas import InspectionAnswer
from app.history.broadcast import Live
from app.history.journal import Journal
from app.history.records import Keep, Picture, Record, Replay
from app.store.errors import StoreUnusable

# Answers with a key that are at hand without the disk; a client that asks again does so soon.
MOST_AT_HAND = 64
# How long an answer waits for the disk, where it waits at all.
LONGEST_WAIT_S = 1.0
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
    only once it is recorded, since somebody is owed it; a disk that hangs is not waited for.
    """

    journal: Journal | None
    live: Live
    keeps: Keep = "none"
    waits: bool = False

    async def told(
        self, answer: InspectionAnswer, data: bytes, request: Request | None = None, *, whole: str = ""
    ) -> None:
        """Record an answer, and show it. What the disk does not take costs the record, never the answer.

        ``whole``: the answer as it goes to a client that may ask for it again.
        """
        if self.journal is None and not self.live.is_watched:
            return
        text = answer.model_dump_json(exclude={"heatmap"})  # which the image gives again
        self.live.tell(text)
        if self.journal is None:
            return
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
        )
        replay = Replay(request.asked, whole) if request else None
        is_kept = self.keeps in ("all", answer.verdict)
        written = self.journal.add(record, Picture(media_type_of(data), data) if is_kept else None, replay)
        if self.waits or request is not None:
            waiting = asyncio.wrap_future(written)
            # The journal tells of what it loses; here it is only not to be called unseen.
            waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait({waiting}, timeout=LONGEST_WAIT_S)


class Withdrawn(Exception):
    """A request that was not answered: who waits for the same answer asks for it."""


@dataclass
class Replays:
    """Requests that came with a key, and what they were answered; of those under way, what they will be."""

    journal: Journal | None
    _readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="replays"))
    _answers: "OrderedDict[str, tuple[str, asyncio.Future[str]]]" = field(default_factory=OrderedDict)

    async def answered(
        self,
        request: Request,
        judged: Callable[[], Awaitable[str]],
        patiently: Callable[[Awaitable[str]], Awaitable[str]],
    ) -> tuple[str, bool]:
        """The first answer to a request, which is judged only once, and whether it was given before.

        ``patiently``: how long the answer to another is waited for. Raises KeyReused, what ``judged`` raises, and what
        ``patiently`` does.
        """
        while (known := self._answers.get(request.key)) is not None:
            asked, answer = known
            if asked != request.asked:
                raise KeyReused
            with suppress(Withdrawn):
                return await patiently(asyncio.shield(answer)), True
        answer = asyncio.get_running_loop().create_future()
        self._answers[request.key] = (request.asked, answer)
        try:
            before = await self._from_journal(request)
            text = before if before is not None else await judged()
        except BaseException:
            answer.set_exception(Withdrawn())
            answer.exception()  # seen here: perhaps nobody else waits for it
            del self._answers[request.key]  # what failed may be tried again
            raise
        answer.set_result(text)
        self._forget_some()
        return text, before is not None

    def _forget_some(self) -> None:
        """Only what is answered, the oldest first."""
        done = [key for key, (_, answer) in self._answers.items() if answer.done()]
        for key in done[: max(0, len(done) - MOST_AT_HAND)]:
            del self._answers[key]

    async def _from_journal(self, request: Request) -> str | None:
        """What was answered before this process began; none where it can't be read soon, since judging goes on."""
        if self.journal is None:
            return None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                replay = await loop.run_in_executor(self._readers, self.journal.replay, request.key)
        except (StoreUnusable, TimeoutError):
            return None
        if replay is None:
            return None
        if replay.asked != request.asked:
            raise KeyReused
        return replay.answer


def media_type_of(data: bytes) -> str:
    """The media type of an image that was judged, by its first bytes."""
    return next((kind for begins, kind in MEDIA_TYPES.items() if data.startswith(begins)), "image/tiff")
