"""The service's settings: one frozen object, read once from ``GOODPART_*`` variables and the command line."""

import ipaddress
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import SettingsError
from app.history.records import Keep
from app.imaging.decode import MAX_PIXELS
from app.imaging.input_check import Guard
from app.inference.sessions import Provider, available_cpus
from app.server.logging import LogFormat
from app.store.paths import DEFAULT_COPIES_GIB, DEFAULT_LOCAL, Location
from app.validation import describe_error, suggest_name
from app.variables import PREFIX, TRAIN_PREFIX


class Settings(BaseSettings):
    """The settings of the service. Each field is also the variable ``GOODPART_<FIELD>``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    store: Location = Field(
        default=Path("store"),
        description="Folder or s3://bucket/prefix of teachers and versions; read access is enough.",
    )
    state: Location | None = Field(
        default=None, description="Folder or s3://... of the state: which version serves; default: <store>/state."
    )
    local: Path = Field(
        default=DEFAULT_LOCAL,
        description="Folder of this instance only: inspection records, copies of versions on object storage.",
    )
    most_copied_gib: float = Field(
        default=DEFAULT_COPIES_GIB,
        gt=0,
        le=10_000,
        description="Maximum size of the copies of versions, in GiB; the oldest are deleted first.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    auth: Literal["required", "off"] = Field(
        default="required",
        description="'off' allows an address other than loopback without API keys.",
    )
    provider: Provider = Field(
        default="auto", description="Execution provider of ONNX Runtime; 'auto' uses CUDA if available."
    )
    threads: int = Field(
        default_factory=lambda: min(256, available_cpus()),
        ge=1,
        le=256,
        description="Number of threads for inference on the CPU.",
    )
    decoders: int = Field(
        default_factory=lambda: min(64, available_cpus()),
        ge=1,
        le=64,
        description="Number of threads that decode and render images.",
    )
    drain_s: float = Field(
        default=3,
        ge=0,
        le=300,
        description="Seconds after SIGTERM in which the service is not ready but still accepts requests.",
    )
    grace_s: float = Field(
        default=20, ge=1, le=600, description="Maximum time for requests in flight to finish after that, in seconds."
    )
    max_in_hand: int = Field(
        default=64, ge=1, le=4096, description="Maximum number of images in flight; more are refused with 503."
    )
    max_batch: int = Field(
        default=1, ge=1, le=8, description="Maximum number of images per batch; batching helps on a GPU, not on a CPU."
    )
    max_queue_delay_ms: float = Field(
        default=0,
        ge=0,
        le=1000,
        description="Maximum time to wait for a batch to fill, in milliseconds; 0 does not wait.",
    )
    deadline_ms: float = Field(
        default=10_000,
        gt=0,
        le=3_600_000,
        description="Maximum time that an image may wait for inspection, in milliseconds.",
    )
    max_upload_bytes: int = Field(default=20_000_000, ge=1024, description="Maximum body size of one image, in bytes.")
    max_batch_upload_bytes: int = Field(
        default=100_000_000, ge=1024, description="Maximum body size of a batch, in bytes."
    )
    max_batch_images: int = Field(default=64, ge=1, le=1024, description="Maximum number of images in a batch request.")
    max_pixels: int = Field(
        default=50_000_000,
        ge=1024,
        le=MAX_PIXELS,
        description="Maximum number of pixels of an image, read from its header.",
    )
    input_guard: Guard = Field(
        default="refuse",
        description="'refuse' answers 422 for an image unlike the training images (dark, blurred, another size); "
        "'warn' inspects it and adds a warning.",
    )
    max_loaded_products: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Maximum number of products in memory; the least recently used is evicted.",
    )
    drift_window: int = Field(default=200, ge=20, le=100_000, description="Number of scores per drift test.")
    drift_false_alarm_rate: float = Field(
        default=0.001,
        gt=0,
        lt=1,
        description="False-alarm rate of a drift test: share of windows without drift that raise an alarm.",
    )
    drift_defect_share: float = Field(
        default=0.05, ge=0, lt=1, description="Share of defective parts that raises no drift alarm."
    )
    api_keys_file: Path | None = Field(default=None, description="File of API keys, as `goodpart key` prints them.")
    api_keys: SecretStr | None = Field(
        default=None, description="API keys, one a line, in addition to those of the file."
    )
    require_signature: Path | None = Field(
        default=None, description="PEM file of Ed25519 public keys; only versions signed with one of them are served."
    )
    tls_cert: Path | None = Field(default=None, description="PEM file of the certificate chain; enables TLS.")
    tls_key: Path | None = Field(default=None, description="PEM file of the certificate's private key.")
    health_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Separate port for health and metrics; the main port then does not serve them.",
    )
    max_header_bytes: int = Field(
        default=16_384, ge=1024, le=1_048_576, description="Maximum size of request headers, in bytes."
    )
    header_timeout_s: float = Field(
        default=10, gt=0, le=600, description="Maximum time to receive the request headers, in seconds."
    )
    body_timeout_s: float = Field(default=30, gt=0, le=3600, description="Maximum time to receive a body, in seconds.")
    max_connections: int = Field(
        default=1024, ge=1, le=65536, description="Maximum number of open connections; more are closed."
    )
    log_format: LogFormat = Field(default="json", description="One JSON object per line, or plain text.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Minimum level logged.")
    history_records: int = Field(
        default=10_000, ge=0, le=100_000_000, description="Maximum number of inspections in the history; 0 keeps none."
    )
    history_days: float = Field(default=30, gt=0, le=36_500, description="Retention of inspections, in days.")
    keep_images: Keep = Field(
        default="none", description="Images kept with their inspections: 'none', 'ng' (defective parts) or 'all'."
    )
    images_mb: float = Field(
        default=1000, gt=0, description="Maximum size of kept images, in megabytes; the oldest are deleted first."
    )
    sinks_file: Path | None = Field(
        default=None,
        description="TOML file of webhooks, MQTT brokers and Modbus registers for every result; docs/integration.md.",
    )
    instance: str = Field(
        default_factory=socket.gethostname,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Name of this instance in the results that it sends.",
    )
    otel_endpoint: str | None = Field(
        default=None, description="OTLP/HTTP endpoint for a trace of each request; requires goodpart[otel]."
    )
    refresh_interval_s: float = Field(
        default=1.0,
        gt=0,
        le=3600,
        description="Interval at which the state is read for the version that should serve, in seconds.",
    )

    @property
    def has_keys(self) -> bool:
        """Whether API keys are given; they are then required on every address."""
        return self.api_keys_file is not None or self.api_keys is not None

    @model_validator(mode="after")
    def _requires_keys(self) -> Self:
        if self.auth == "required" and not self.has_keys and not is_loopback(self.host):
            message = (
                f"{self.host} can be reached by others and there are no API keys; create one with `goodpart key`, "
                f"listen on 127.0.0.1, or set {PREFIX}AUTH=off"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.auth == "off" and self.has_keys:
            raise ValueError(f"API keys are given, but {PREFIX}AUTH=off disables them: remove one of the two")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("TLS requires both tls_cert and tls_key")
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
    """Read the settings from the environment, overridden by what is not None. Raises SettingsError."""
    refuse_unknown(os.environ)  # noqa: TID251  # this and app.variables are the places that read the environment
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]  # pydantic checks what comes from outside
    except ValidationError as error:
        raise SettingsError(describe_error(error)) from None


def refuse_unknown(names: Iterable[str]) -> None:
    """Raise SettingsError for an unknown variable, with the nearest known name.

    pydantic-settings passes over unknown variables.
    """
    known = [PREFIX + field.upper() for field in Settings.model_fields]
    for name in sorted(names):
        if name.upper().startswith(TRAIN_PREFIX):
            continue
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise SettingsError(f"unknown setting {name}{suggest_name(name.upper(), known)}")
