"""Results as Modbus TCP registers: the service is the server, and a PLC polls and acknowledges each result."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.sinks.outbox import DeliveryError, Message
from app.sinks.registers import NUM_WORDS, REGISTERS, Panel

if TYPE_CHECKING:
    from pymodbus.constants import ExcCodes
    from pymodbus.server import ModbusTcpServer

HEARTBEAT_S = 1.0
# Modbus function codes: read holding or input registers, and write registers; no coils.
FUNCTIONS = {3, 4, 6, 16, 22, 23}


class Modbus:
    """A Modbus TCP server.

    A PLC may be silent for hours, so that from the first connection on, the server, its heartbeat and the shown result
    stay until the event loop ends.
    """

    # Polling is cheap, and a PLC that has acknowledged meanwhile waits for the next result.
    max_pause_s = 0.5
    # Results are shown one at a time, so delivery is recorded one at a time.
    max_batch = 1

    def __init__(self, *, name: str, host: str, port: int, timeout_s: float) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.timeout_s = timeout_s
        self.panel = Panel()
        self._server_task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["ModbusConnection"]:
        """Yield the registers, which PLCs can reach. Raises DeliveryError where the port can't be opened."""
        if self._server_task is None or self._server_task.done():
            self._server_task = asyncio.create_task(self._run_heartbeat(await self._listen()))
        yield ModbusConnection(self.panel, self._server_task)

    async def _listen(self) -> "ModbusTcpServer":
        from pymodbus.server import ModbusTcpServer  # noqa: PLC0415  # an extra
        from pymodbus.simulator import DataType, SimData, SimDevice  # noqa: PLC0415  # an extra

        await self._check_port()
        data = SimData(0, count=NUM_WORDS, datatype=DataType.REGISTERS)
        any_unit = SimDevice(0, simdata=data, action=self._handle_request)
        server = ModbusTcpServer(any_unit, address=(self.host, self.port))
        await server.serve_forever(background=True)
        return server

    async def _check_port(self) -> None:
        """Raise DeliveryError with the reason why the port can't be opened, which pymodbus does not report."""
        loop = asyncio.get_running_loop()
        try:
            (await loop.create_server(asyncio.Protocol, self.host, self.port, reuse_address=True)).close()
        except OSError as error:
            raise DeliveryError(f"it can't listen on {self.host}:{self.port}: {error.strerror or error}") from error

    async def _run_heartbeat(self, server: "ModbusTcpServer") -> None:
        async with server:
            while True:
                await asyncio.sleep(HEARTBEAT_S)
                self.panel.beat()

    async def _handle_request(
        self,
        function: int,
        _first: int,
        address: int,
        count: int,
        registers: list[int],
        written: list[int] | list[bool] | None,
    ) -> "ExcCodes | None":
        """Return the exception code of an invalid request, or None and fill ``registers``."""
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
class ModbusConnection:
    """The registers of a running server."""

    panel: Panel
    server_task: asyncio.Task[None]

    async def send(self, message: Message) -> None:
        """Show a message and wait until the PLC has acknowledged it."""
        if message.key != self.panel.key:
            self.panel.offer(message)
        await self.panel.taken.wait()

    async def wait_until_lost(self) -> None:
        """Wait for the server to end; PLCs come and go. Raises DeliveryError."""
        await asyncio.wait({self.server_task})
        raise DeliveryError("the server has ended")
