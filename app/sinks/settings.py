"""The configuration of sinks: a TOML file with tables ``[[webhook]]``, ``[[mqtt]]`` and ``[[modbus]]``.

``timeout_s`` is the maximum time of one message; secrets are in files of their own.
"""

import tomllib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, ValidationError

from app.errors import SettingsError
from app.sinks.modbus import Modbus
from app.sinks.mqtt import Mqtt
from app.sinks.outbox import Sink
from app.sinks.webhook import Webhook
from app.validation import describe_error


def sinks_error(path: Path, why: str) -> SettingsError:
    """Return the error of an invalid file of sinks."""
    return SettingsError(f"{path}: {why}")


class SinkTable(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    timeout_s: float = Field(default=10.0, gt=0, le=300)


class WebhookTable(SinkTable):
    """``[[webhook]]``."""

    url: HttpUrl
    secret_file: Path | None = None


class MqttTable(SinkTable):
    """``[[mqtt]]``."""

    host: str = Field(min_length=1)
    port: int = Field(default=1883, ge=1, le=65535)
    topic: str = Field(default="goodpart", pattern=r"^[^#+\x00]+$")
    username: str | None = None
    password_file: Path | None = None
    tls: bool = False


class ModbusTable(SinkTable):
    """``[[modbus]]``: where to listen."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=1502, ge=1, le=65535)


class SinksFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    webhook: tuple[WebhookTable, ...] = ()
    mqtt: tuple[MqttTable, ...] = ()
    modbus: tuple[ModbusTable, ...] = ()


def read_sinks(path: Path, *, instance: str) -> tuple[Sink, ...]:
    """Read the sinks of a file. Raises SettingsError."""
    try:
        file = SinksFile.model_validate(tomllib.loads(path.read_text()))
        sinks: list[Sink] = [create_webhook(table) for table in file.webhook]
        sinks += [create_mqtt(table, instance=instance) for table in file.mqtt]
        sinks += [create_modbus(table) for table in file.modbus]
    except ValidationError as error:
        raise sinks_error(path, describe_error(error)) from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise sinks_error(path, str(error)) from error
    twice = [name for name, number in Counter(sink.name for sink in sinks).items() if number > 1]
    if twice:
        raise sinks_error(path, f"two sinks have the name '{twice[0]}'")
    needed = {"httpx2": file.webhook, "aiomqtt": file.mqtt, "pymodbus": file.modbus}
    lacking = [package for package, tables in needed.items() if tables and find_spec(package) is None]
    if lacking:
        raise sinks_error(path, f"requires {lacking[0]}: pip install 'goodpart[sinks]'")
    return tuple(sinks)


def create_webhook(table: WebhookTable) -> Webhook:
    """Create the sink of a table."""
    secret = table.secret_file.read_bytes().strip() if table.secret_file else None
    return Webhook(table.name, str(table.url), secret, table.timeout_s)


def create_mqtt(table: MqttTable, *, instance: str) -> Mqtt:
    """Create the sink of a table."""
    return Mqtt(
        name=table.name,
        host=table.host,
        port=table.port,
        topic=table.topic,
        instance=instance,
        username=table.username,
        password=table.password_file.read_text().strip() if table.password_file else None,
        has_tls=table.tls,
        timeout_s=table.timeout_s,
    )


def create_modbus(table: ModbusTable) -> Modbus:
    """Create the sink of a table."""
    return Modbus(name=table.name, host=table.host, port=table.port, timeout_s=table.timeout_s)
