"""What a PLC reads and writes: a map of holding registers, and the handshake by which it takes result after result.

The service shows a result and sets ``results_valid``; the PLC takes it and sets ``acknowledged``; the service clears
``results_valid``; the PLC clears ``acknowledged``, and may be shown the next. So no write that comes twice, early or
late takes a result that was not read, and a PLC goes by the two registers as it reads them: it need not remember.
"""

import asyncio
import json
import struct
from dataclasses import dataclass
from typing import Any, Literal

from app.sinks.outbox import Message

Kind = Literal["uint16", "uint32", "float32", "ASCII"]
Value = int | float | bytes
TEXT_BYTES = 64
LAYOUTS: dict[Kind, str] = {"uint16": ">H", "uint32": ">I", "float32": ">f", "ASCII": f">{TEXT_BYTES}s"}
VERDICTS = {"ok": 1, "ng": 2}
FLOAT32_MAX = 3.4028234663852886e38
NUM_UINT32 = 2**32


@dataclass(frozen=True)
class Register:
    """A value of the map. ``address``: of its first word, from zero; programs of PLCs rely on it."""

    address: int
    name: str
    kind: Kind
    meaning: str

    @property
    def num_words(self) -> int:
        """How many words of 16 bits it takes."""
        return struct.calcsize(LAYOUTS[self.kind]) // 2


# Values of two words lie on even addresses, which some PLCs want.
MAP = (
    Register(0, "heartbeat", "uint16", "counts up each second while the service lives, and begins anew after 65,535"),
    Register(1, "results_valid", "uint16", "1 while a result waits to be taken"),
    Register(2, "acknowledged", "uint16", "0 or 1, and the only one that may be written"),
    Register(3, "verdict", "uint16", "1 `ok`, 2 `ng`, 0 before the first result"),
    Register(4, "score", "float32", "as in the answer, or what comes nearest to it"),
    Register(6, "threshold", "float32", "as in the answer, or what comes nearest to it"),
    Register(8, "sequence", "uint32", "1, 2, 3... for each product, as above"),
    Register(10, "part_number", "uint32", "`part_id` where that is a decimal number below 2^32, else 0"),
    Register(12, "part_id", "ASCII", "its first 64 characters, zeros behind; `?` for what is not ASCII"),
    Register(44, "product", "ASCII", "likewise"),
    Register(76, "repeated", "uint16", "1 where it may have been shown before, by a service that was ended since"),
)
REGISTERS = {register.name: register for register in MAP}
NUM_WORDS = sum(register.num_words for register in MAP)


class Panel:
    """The registers, as words, and the result that they show. Belongs to one event loop.

    ``key``: of the message that was offered last; ``taken``: whether the PLC has acknowledged it.
    """

    def __init__(self) -> None:
        self.words = [0] * NUM_WORDS
        self.key: str | None = None
        self.taken = asyncio.Event()
        self._waits: dict[str, Value] | None = None
        self._show_nothing()

    def offer(self, message: Message) -> None:
        """Show a result, at once or as soon as the PLC has cleared ``acknowledged``."""
        if self.value("results_valid"):  # the one before is not owed any more
            self._show_nothing()
        self.key, self._waits = message.key, values_of(json.loads(message.body))
        self.taken.clear()
        self._show()

    def acknowledge(self, value: int) -> None:
        """What the PLC writes: 1 takes the result that is shown, 0 asks for the next."""
        self._write("acknowledged", value)
        if value and self.value("results_valid"):
            self._write("results_valid", 0)
            self.taken.set()
        self._show()

    def beat(self) -> None:
        """Tell the PLC that the service lives."""
        self._write("heartbeat", (self.value("heartbeat") + 1) % 2**16)

    def value(self, name: str) -> int:
        """The value of a register of one word."""
        return self.words[REGISTERS[name].address]

    def _show_nothing(self) -> None:
        """Until the PLC clears ``acknowledged``: what it wrote for a result before must not take the next one."""
        self._write("results_valid", 0)
        self._write("acknowledged", 1)

    def _show(self) -> None:
        if self._waits is None or self.value("acknowledged"):
            return
        for name, value in (*self._waits.items(), ("results_valid", 1)):
            self._write(name, value)
        self._waits = None

    def _write(self, name: str, value: Value) -> None:
        register = REGISTERS[name]
        self.words[register.address : register.address + register.num_words] = words_of(value, register.kind)


def words_of(value: Value, kind: Kind) -> tuple[int, ...]:
    """A value as words of 16 bits, the highest first."""
    packed = struct.pack(LAYOUTS[kind], value)
    return struct.unpack(f">{len(packed) // 2}H", packed)


def values_of(told: dict[str, Any]) -> dict[str, Value]:
    """What the registers show of a result; ``told``: the members of its message."""
    part_id = told["part_id"] or ""
    return {
        "verdict": VERDICTS[told["verdict"]],
        "score": float32_of(told["score"]),
        "threshold": float32_of(told["threshold"]),
        "sequence": told["sequence"] % NUM_UINT32,
        "part_number": part_number_of(part_id),
        "part_id": part_id.encode("ascii", "replace")[:TEXT_BYTES],
        "product": told["product"].encode("ascii", "replace")[:TEXT_BYTES],
        "repeated": int(told["repeated"]),
    }


def float32_of(value: float) -> float:
    """The number, or the largest of its sign where it is beyond 32 bits: a threshold may be set to anything."""
    return max(-FLOAT32_MAX, min(FLOAT32_MAX, value))


def part_number_of(part_id: str) -> int:
    """The number that a part id is, 0 where it is none that fits."""
    digits = part_id.lstrip("0")
    is_number = digits.isascii() and digits.isdecimal() and len(digits) <= len(str(NUM_UINT32))
    return int(digits) if is_number and int(digits) < NUM_UINT32 else 0
