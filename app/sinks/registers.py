"""The register map that a PLC reads and writes, and the handshake of each result.

The service shows a result and sets ``results_valid``; the PLC takes it and sets ``acknowledged``; the service clears
``results_valid``; the PLC clears ``acknowledged``, and may be shown the next. So a write that is repeated, early or
late never takes a result that was not read, and a PLC needs no state in addition to the two registers.
"""

import asyncio
import json
import struct
from dataclasses import dataclass
from typing import Any, Literal

from app.sinks.outbox import Message

RegisterKind = Literal["uint16", "uint32", "float32", "ASCII"]
Value = int | float | bytes
TEXT_BYTES = 64
LAYOUTS: dict[RegisterKind, str] = {"uint16": ">H", "uint32": ">I", "float32": ">f", "ASCII": f">{TEXT_BYTES}s"}
VERDICTS = {"ok": 1, "ng": 2}
FLOAT32_MAX = 3.4028234663852886e38
NUM_UINT32 = 2**32


@dataclass(frozen=True)
class Register:
    """A value of the map. ``address``: of its first word, from zero; PLC programs depend on it."""

    address: int
    name: str
    kind: RegisterKind
    meaning: str

    @property
    def num_words(self) -> int:
        """The number of 16-bit words."""
        return struct.calcsize(LAYOUTS[self.kind]) // 2


# Values of two words have even addresses, which some PLCs require.
MAP = (
    Register(0, "heartbeat", "uint16", "increments every second while the service runs; wraps after 65,535"),
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
    """The registers as words, and the shown result. Belongs to one event loop.

    ``key``: of the last offered message; ``taken``: set once the PLC has acknowledged it.
    """

    def __init__(self) -> None:
        self.words = [0] * NUM_WORDS
        self.key: str | None = None
        self.taken = asyncio.Event()
        self._pending: dict[str, Value] | None = None
        self._clear()

    def offer(self, message: Message) -> None:
        """Show a result, at once or after the PLC has cleared ``acknowledged``."""
        if self.get_value("results_valid"):  # the previous result was delivered
            self._clear()
        self.key, self._pending = message.key, to_register_values(json.loads(message.body))
        self.taken.clear()
        self._show()

    def acknowledge(self, value: int) -> None:
        """Write ``acknowledged``: 1 takes the shown result, 0 requests the next."""
        self._write("acknowledged", value)
        if value and self.get_value("results_valid"):
            self._write("results_valid", 0)
            self.taken.set()
        self._show()

    def beat(self) -> None:
        """Increment the heartbeat."""
        self._write("heartbeat", (self.get_value("heartbeat") + 1) % 2**16)

    def get_value(self, name: str) -> int:
        """Return the value of a register of one word."""
        return self.words[REGISTERS[name].address]

    def _clear(self) -> None:
        """Show nothing until the PLC clears ``acknowledged``: a late write must not take the next result."""
        self._write("results_valid", 0)
        self._write("acknowledged", 1)

    def _show(self) -> None:
        if self._pending is None or self.get_value("acknowledged"):
            return
        for name, value in (*self._pending.items(), ("results_valid", 1)):
            self._write(name, value)
        self._pending = None

    def _write(self, name: str, value: Value) -> None:
        register = REGISTERS[name]
        self.words[register.address : register.address + register.num_words] = pack_words(value, register.kind)


def pack_words(value: Value, kind: RegisterKind) -> tuple[int, ...]:
    """Return a value as 16-bit words, the highest first."""
    packed = struct.pack(LAYOUTS[kind], value)
    return struct.unpack(f">{len(packed) // 2}H", packed)


def to_register_values(fields: dict[str, Any]) -> dict[str, Value]:
    """Return the register values of a result; ``fields``: the fields of its message."""
    part_id = fields["part_id"] or ""
    return {
        "verdict": VERDICTS[fields["verdict"]],
        "score": clamp_float32(fields["score"]),
        "threshold": clamp_float32(fields["threshold"]),
        "sequence": fields["sequence"] % NUM_UINT32,
        "part_number": parse_part_number(part_id),
        "part_id": part_id.encode("ascii", "replace")[:TEXT_BYTES],
        "product": fields["product"].encode("ascii", "replace")[:TEXT_BYTES],
        "repeated": int(fields["repeated"]),
    }


def clamp_float32(value: float) -> float:
    """Clamp a number to the range of float32: a threshold may be set to any value."""
    return max(-FLOAT32_MAX, min(FLOAT32_MAX, value))


def parse_part_number(part_id: str) -> int:
    """Return a decimal part id as a number, or 0."""
    digits = part_id.lstrip("0")
    is_number = digits.isascii() and digits.isdecimal() and len(digits) <= len(str(NUM_UINT32))
    return int(digits) if is_number and int(digits) < NUM_UINT32 else 0
