"""Results by MQTT: ``<topic>/results/<product>``, QoS 1; ``<topic>/status/<instance>``: online or offline, retained."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from app.sinks.outbox import MAX_BATCH, MAX_PAUSE_S, DeliveryError, Message

ONLINE, OFFLINE = "online", "offline"
AT_LEAST_ONCE = 1


@dataclass(frozen=True)
class Mqtt:
    """A broker. ``instance`` distinguishes the services that share it."""

    name: str
    host: str
    port: int
    topic: str
    instance: str
    username: str | None
    password: str | None
    has_tls: bool
    timeout_s: float
    max_pause_s: float = MAX_PAUSE_S
    max_batch: int = MAX_BATCH

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["MqttConnection"]:
        """Yield a connection with a last will. Raises DeliveryError."""
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
                    yield MqttConnection(self, client)
                finally:
                    await client.publish(status, OFFLINE, qos=AT_LEAST_ONCE, retain=True)
        except aiomqtt.MqttError as error:
            raise DeliveryError(f"{self.host}:{self.port}: {error}") from error


@dataclass(frozen=True)
class MqttConnection:
    """A connection to a broker."""

    mqtt: Mqtt
    client: Any  # aiomqtt's, which may not be there

    async def send(self, message: Message) -> None:
        """Publish a message and wait for the broker's acknowledgement."""
        topic = f"{self.mqtt.topic}/results/{message.product}"
        await self.client.publish(topic, message.body, qos=AT_LEAST_ONCE, timeout=self.mqtt.timeout_s)

    async def wait_until_lost(self) -> None:
        """Wait for the connection to end; nothing is subscribed to. Raises MqttError."""
        async for _ in self.client.messages:
            pass
