"""Results by MQTT: ``<topic>/results/<product>``, QoS 1; ``<topic>/status/<instance>`` says who is online, retained."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from app.sinks.outbox import LONGEST_PAUSE_S, MOST_TOGETHER, Message, SinkTrouble

ONLINE, OFFLINE = "online", "offline"
AT_LEAST_ONCE = 1


@dataclass(frozen=True)
class Mqtt:
    """A broker. ``instance`` tells services apart that share it."""

    name: str
    host: str
    port: int
    topic: str
    instance: str
    username: str | None
    password: str | None
    has_tls: bool
    timeout_s: float
    longest_pause_s: float = LONGEST_PAUSE_S
    most_together: int = MOST_TOGETHER

    @asynccontextmanager
    async def connected(self) -> AsyncIterator["Publishing"]:
        """A connection whose end, however it comes, the broker tells. Raises SinkTrouble."""
        import aiomqtt  # noqa: PLC0415  # an extra

        status = f"{self.topic}/status/{self.instance}"
        client = aiomqtt.Client(
            self.host,
            self.port,
            username=self.username,
            password=self.password,
            identifier=f"goodpart-{self.instance}-{self.name}",
            will=aiomqtt.Will(status, OFFLINE, qos=AT_LEAST_ONCE, retain=True),
            timeout=self.timeout_s,
            keepalive=10,
            tls_params=aiomqtt.TLSParameters() if self.has_tls else None,
        )
        try:
            async with client:
                await client.publish(status, ONLINE, qos=AT_LEAST_ONCE, retain=True)
                try:
                    yield Publishing(self, client)
                finally:
                    await client.publish(status, OFFLINE, qos=AT_LEAST_ONCE, retain=True)
        except aiomqtt.MqttError as error:
            raise SinkTrouble(f"{self.host}:{self.port}: {error}") from error


@dataclass(frozen=True)
class Publishing:
    """A connection to a broker."""

    mqtt: Mqtt
    client: Any  # aiomqtt's, which may not be there

    async def send(self, message: Message) -> None:
        """Publish it; taken once the broker says so."""
        topic = f"{self.mqtt.topic}/results/{message.product}"
        await self.client.publish(topic, message.body, qos=AT_LEAST_ONCE, timeout=self.mqtt.timeout_s)

    async def lost(self) -> None:
        """Messages end with the connection; none come, since nothing is subscribed to. Raises MqttError."""
        async for _ in self.client.messages:
            pass
