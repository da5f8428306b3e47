"""The service's settings: one frozen object, read once from ``GOODPART_*`` variables and the command line."""

import difflib
import ipaddress
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.history.records import Keep
from app.imaging.decode import MAX_PIXELS
from app.imaging.input_check import Guard
from app.inference.sessions import Provider, available_cpus
from app.server.logging import LogFormat
from app.store.paths import DEFAULT_COPIES_GIB, DEFAULT_LOCAL, Location
from model.bundle import GoodpartError

PREFIX = "GOODPART_"
# Variables of the trainer, which reads them itself.
TRAIN_PREFIX = "GOODPART_TRAIN_"


class BadServiceSettings(GoodpartError):
    """A setting that is unknown or has an invalid value."""


class Settings(BaseSettings):
    """The settings of the service. Each field is also the variable ``GOODPART_<FIELD>``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    store: Location = Field(
        default=Path("store"), description="Folder or s3://bucket/prefix of teachers and versions; reading suffices."
    )
    state: Location | None = Field(
        default=None, description="Folder or s3://... that says which version serves; default: <store>/state."
    )
    local: Path = Field(
        default=DEFAULT_LOCAL,
        description="Folder of this service alone: records of inspections, copies of what is on object storage.",
    )
    most_copied_gib: float = Field(
        default=DEFAULT_COPIES_GIB,
        gt=0,
        le=10_000,
        description="GiB that copies of versions may take; old ones go first.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    auth: Literal["required", "off"] = Field(
        default="required",
        description="'off' allows an address other than loopback without API keys.",
    )
    provider: Provider = Field(default="auto", description="Where graphs run; 'auto' takes CUDA where there is one.")
    threads: int = Field(
        default_factory=lambda: min(256, available_cpus()),
        ge=1,
        le=256,
        description="Threads for inference on the CPU.",
    )
    decoders: int = Field(
        default_factory=lambda: min(64, available_cpus()),
        ge=1,
        le=64,
        description="Threads that decode and render images.",
    )
    drain_s: float = Field(
        default=3, ge=0, le=300, description="Seconds after SIGTERM in which requests are still accepted, not ready."
    )
    grace_s: float = Field(default=20, ge=1, le=600, description="Seconds that requests in hand then have to finish.")
    max_in_hand: int = Field(
        default=64, ge=1, le=4096, description="Most images in hand at once; the next is refused with 503."
    )
    max_batch: int = Field(
        default=1, ge=1, le=8, description="Most images run as one batch; a GPU gains by it, a CPU does not."
    )
    max_queue_delay_ms: float = Field(
        default=0, ge=0, le=1000, description="Milliseconds that a batch waits for company; 0 takes what is there."
    )
    deadline_ms: float = Field(
        default=10_000,
        gt=0,
        le=3_600_000,
        description="Milliseconds after which a waiting image is not judged any more.",
    )
    max_upload_bytes: int = Field(default=20_000_000, ge=1024, description="Largest body of one image, in bytes.")
    max_batch_upload_bytes: int = Field(default=100_000_000, ge=1024, description="Largest body of a batch, in bytes.")
    max_batch_images: int = Field(default=64, ge=1, le=1024, description="Most images in a batch.")
    max_pixels: int = Field(
        default=50_000_000, ge=1024, le=MAX_PIXELS, description="Most pixels of an image, by its header."
    )
    input_guard: Guard = Field(
        default="refuse",
        description="'refuse' answers 422 for an image unlike those of the product (dark, blurred, of another size); "
        "'warn' judges it and says so.",
    )
    max_loaded_products: int = Field(
        default=64, ge=1, le=4096, description="Most products in memory; the one asked for least recently rests."
    )
    drift_window: int = Field(default=200, ge=20, le=100_000, description="Scores that are tested for drift together.")
    drift_false_alarm_rate: float = Field(
        default=0.001, gt=0, lt=1, description="Rate at which a window of parts that have not drifted raises the alarm."
    )
    drift_defect_share: float = Field(
        default=0.05, ge=0, lt=1, description="Share of defective parts that raises no alarm."
    )
    api_keys_file: Path | None = Field(default=None, description="File of API keys, as `goodpart key` prints them.")
    api_keys: SecretStr | None = Field(default=None, description="API keys as lines, beside those of the file.")
    require_signature: Path | None = Field(
        default=None, description="PEM file of Ed25519 public keys; only versions signed by one of them serve."
    )
    tls_cert: Path | None = Field(default=None, description="PEM file of the certificate chain; switches TLS on.")
    tls_key: Path | None = Field(default=None, description="PEM file of the certificate's private key.")
    health_port: int | None = Field(
        default=None, ge=1, le=65535, description="Port of health and metrics, which are then nowhere else."
    )
    max_header_bytes: int = Field(default=16_384, ge=1024, le=1_048_576, description="Largest head of a request.")
    header_timeout_s: float = Field(
        default=10, gt=0, le=600, description="Seconds in which a connection must have sent the head of a request."
    )
    body_timeout_s: float = Field(default=30, gt=0, le=3600, description="Seconds in which a body must have arrived.")
    max_connections: int = Field(default=1024, ge=1, le=65536, description="Most open connections; more are closed.")
    log_format: LogFormat = Field(default="json", description="One JSON object a line, or lines for people.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    history_records: int = Field(
        default=10_000, ge=0, le=100_000_000, description="Most inspections that are kept; 0 keeps none."
    )
    history_days: float = Field(default=30, gt=0, le=36_500, description="Days after which an inspection is forgotten.")
    keep_images: Keep = Field(
        default="none", description="Images kept with their inspections: 'none', those judged 'ng', or 'all'."
    )
    images_mb: float = Field(default=1000, gt=0, description="Megabytes that kept images may take; old ones go first.")
    sinks_file: Path | None = Field(
        default=None,
        description="TOML file of webhooks, MQTT brokers and Modbus registers for every result; docs/integration.md.",
    )
    instance: str = Field(
        default_factory=socket.gethostname,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="What this service is called in the results that it sends.",
    )
    otel_endpoint: str | None = Field(
        default=None, description="OTLP/HTTP address that gets a trace of each request; takes goodpart[otel]."
    )
    refresh_interval_s: float = Field(
        default=1.0, gt=0, le=3600, description="Seconds between looks at which version should serve."
    )

    @property
    def has_keys(self) -> bool:
        """Whether API keys are given; then they are asked for, on every address."""
        return self.api_keys_file is not None or self.api_keys is not None

    @model_validator(mode="after")
    def _requires_keys(self) -> Self:
        if self.auth == "required" and not self.has_keys and not is_loopback(self.host):
            message = (
                f"{self.host} can be reached by others and there are no API keys; make one with `goodpart key`, "
                f"listen on 127.0.0.1, or say {PREFIX}AUTH=off"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.auth == "off" and self.has_keys:
            raise ValueError(f"API keys are given, and {PREFIX}AUTH=off says not to ask for them: drop one of the two")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("TLS takes both tls_cert and tls_key")
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_settings(**given: object) -> Settings:
    """Read the settings from the environment, overridden by what is not None. Raises BadServiceSettings."""
    refuse_unknown(os.environ)  # noqa: TID251  # the one place that reads the environment
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]  # pydantic checks what comes from outside
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise BadServiceSettings(f"{name}: {message}" if name else message) from None


def read_train_variables() -> dict[str, str]:
    """Return the trainer's variables without their prefix, in lower case."""
    found = os.environ.items()  # noqa: TID251  # as above
    return {name[len(TRAIN_PREFIX) :].lower(): value for name, value in found if name.upper().startswith(TRAIN_PREFIX)}


def refuse_unknown(names: Iterable[str]) -> None:
    """Raise BadServiceSettings for an unknown variable, with the nearest known name."""
    known = [PREFIX + field.upper() for field in Settings.model_fields]
    for name in sorted(names):
        if name.upper().startswith(TRAIN_PREFIX):
            continue
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadServiceSettings(f"no setting is called {name}{hint}")
