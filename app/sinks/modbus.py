"""Results as Modbus TCP registers: the service is the server, a PLC polls it and takes one result after the other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.sinks.outbox import Message, SinkTrouble
from app.sinks.registers import NUM_WORDS, REGISTERS, Panel

if TYPE_CHECKING:
    from pymodbus.constants import ExcCodes
    from pymodbus.server import ModbusTcpServer

BEAT_EVERY_S = 1.0
# Modbus' numbers of what may be asked: to read registers, holding or input, and to write them; not coils.
FUNCTIONS = {3, 4, 6, 16, 22, 23}


class Modbus:
    """An address at which PLCs ask.

    A PLC that takes nothing for hours is no reason to hang up: from the first connection on, the server, its heartbeat
    and what it shows stay until the event loop ends.
    """

    # Looking again costs nobody anything, and who acknowledged meanwhile waits for the next result.
    longest_pause_s = 0.5
    # Each is shown by itself, so it is also noted by itself.
    most_together = 1

    def __init__(self, *, name: str, host: str, port: int, timeout_s: float) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.timeout_s = timeout_s
        self.panel = Panel()
        self._life: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator["Showing"]:
        """The registers, which PLCs can reach. Raises SinkTrouble where the port can't be had."""
        if self._life is None or self._life.done():
            self._life = asyncio.create_task(self._live(await self._listening()))
        yield Showing(self.panel, self._life)

    async def _listening(self) -> "ModbusTcpServer":
        from pymodbus.server import ModbusTcpServer  # noqa: PLC0415  # an extra
        from pymodbus.simulator import DataType, SimData, SimDevice  # noqa: PLC0415  # an extra

        await self._try_port()
        data = SimData(0, count=NUM_WORDS, datatype=DataType.REGISTERS)
        any_unit = SimDevice(0, simdata=data, action=self._asked)
        server = ModbusTcpServer(any_unit, address=(self.host, self.port))
        await server.serve_forever(background=True)
        return server

    async def _try_port(self) -> None:
        """Raises SinkTrouble that says why the port can't be had, which pymodbus keeps to itself."""
        loop = asyncio.get_running_loop()
        try:
            (await loop.create_server(asyncio.Protocol, self.host, self.port, reuse_address=True)).close()
        except OSError as error:
            raise SinkTrouble(f"it can't listen on {self.host}:{self.port}: {error.strerror or error}") from error

    async def _live(self, server: "ModbusTcpServer") -> None:
        async with server:
            while True:
                await asyncio.sleep(BEAT_EVERY_S)
                self.panel.beat()

    async def _asked(
        self,
        function: int,
        _first: int,
        address: int,
        count: int,
        registers: list[int],
        written: list[int] | list[bool] | None,
    ) -> "ExcCodes | None":
        """Before a request is answered out of ``registers``: what it must be refused with, if it must."""
        from pymodbus.constants import ExcCodes  # noqa: PLC0415  # an extra

        if function not in FUNCTIONS:
            return ExcCodes.ILLEGAL_FUNCTION
        if written is None:
            registers[:NUM_WORDS] = self.panel.words
            return None
        if (address, count) != (REGISTERS["acknowledged"].address, 1):
            return ExcCodes.ILLEGAL_ADDRESS
        if written[0] not in {0, 1}:
            return ExcCodes.ILLEGAL_VALUE
        self.panel.acknowledge(int(written[0]))
        return None


@dataclass(frozen=True)
class Showing:
    """The registers of a server that lives as long as ``life``."""

    panel: Panel
    life: asyncio.Task[None]

    async def send(self, message: Message) -> None:
        """Show it, where it is not shown already; taken once the PLC has acknowledged it."""
        if message.key != self.panel.key:
            self.panel.offer(message)
        await self.panel.taken.wait()

    async def lost(self) -> None:
        """PLCs come and go; it is the server that would be lost. Raises SinkTrouble."""
        await asyncio.wait({self.life})
        raise SinkTrouble("the server has ended")
