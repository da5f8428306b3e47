"""ONNX Runtime sessions, opened from verified bytes on the provider that was asked for."""

import base64
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnxruntime as ort

from app.errors import ModelError

Provider = Literal["auto", "cuda", "tensorrt", "cpu"]

CHAINS: dict[str, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
# The default search, EXHAUSTIVE, costs seconds at each new shape.
# The arena grows by what is needed: its default doubles, and the sessions of several versions share the device.
# TF32 is off: recall divides cosines by its temperature, and calibration ran in float32.
CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
    "use_tf32": "0",
}
# A graph with one Identity node: the smallest test of whether a provider has a device.
PROBE = base64.b64decode("CAgSADo3ChAKAXgSAXkiCElkZW50aXR5EgFwWg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQEQ==")
# The protobuf encoding of the key "location", which every tensor with external data contains.
EXTERNAL_DATA_MARK = b"\x0a\x08location"


@dataclass(frozen=True)
class Device:
    """Where graphs run. ``provider`` is never ``auto``; ``num_threads`` counts for the CPU."""

    provider: Literal["cuda", "tensorrt", "cpu"]
    num_threads: int


def available_cpus(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return the number of processors that this process may use: its affinity, limited by the container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, read_cpu_quota(quota_file) or allowed)


def read_cpu_quota(quota_file: Path) -> int | None:
    """Return the quota in whole processors, rounded up, or None. The file is cgroup v2's ``cpu.max``."""
    try:
        quota, period = quota_file.read_text().split()
    except (OSError, ValueError):
        return None
    # Rounded up: half a processor still needs a thread, and a thread too many is only throttled.
    return None if quota == "max" else max(1, math.ceil(int(quota) / int(period)))


def choose_device(asked: Provider, *, num_threads: int) -> Device:
    """Return the requested device; ``auto`` takes CUDA where it is. Raises ModelError, never falls back."""
    available = ort.get_available_providers()
    if asked == "auto":
        return Device("cuda" if has_device("cuda") else "cpu", num_threads)
    if not has_device(asked):
        raise provider_error(asked, got=", ".join(available))
    return Device(asked, num_threads)


def provider_error(asked: str, *, got: str) -> ModelError:
    """Return the error of a requested device that is missing."""
    return ModelError(
        f"'{asked}' is not available (ONNX Runtime supports {got}); install "
        "goodpart[gpu] on a machine with an NVIDIA GPU, or use 'cpu'"
    )


def has_device(provider: Literal["cuda", "tensorrt", "cpu"]) -> bool:
    """Whether a provider runs here; that ONNX Runtime was built with it is not enough."""
    if CHAINS[provider][0] not in ort.get_available_providers():
        return False
    try:
        open_session(PROBE, what="a probe", device=Device(provider, 1))
    except ModelError:
        return False
    return True


def open_session(graph: bytes, *, what: str, device: Device) -> ort.InferenceSession:
    """Open a session over these bytes alone. Raises ModelError."""
    if EXTERNAL_DATA_MARK in graph:
        raise ModelError(f"{what} stores weights outside its file, which is not allowed")
    chain = CHAINS[device.provider]
    if device.provider != "cpu":
        ort.preload_dlls()  # CUDA's libraries lie in wheels of their own, where no loader looks
    configured = [(provider, CUDA_OPTIONS if provider == "CUDAExecutionProvider" else {}) for provider in chain]
    try:
        session = ort.InferenceSession(graph, make_session_options(device), providers=configured)
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        raise ModelError(f"{what} can't be loaded: {str(error).splitlines()[0][:300]}") from error
    session.disable_fallback()
    got = session.get_providers()[0]
    if got != chain[0]:
        raise provider_error(device.provider, got=got)
    return session


def make_session_options(device: Device) -> ort.SessionOptions:
    """Return the session's options. Spinning is off, since three graphs take turns on the same cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = device.num_threads if device.provider == "cpu" else 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
