"""Checkpoints of a training, as one file without pickle: tensors by safetensors, the rest as JSON.

Floats survive JSON unchanged (Python writes the shortest text that reads back as the same number), so a training that
continues from a checkpoint ends as one that was not interrupted.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from app.store.files import replace_file
from training.errors import BadCheckpoint

PLAIN = "plain"
TENSOR = "tensor:"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state of nested dicts, lists, numbers, texts and tensors, whole or not at all. Raises StoreUnusable."""
    tensors: dict[str, Tensor] = {}
    plain = json.dumps(extract_tensors(state, "", tensors))
    replace_file(path, save(tensors, metadata={PLAIN: plain}))


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read the state in a file, or None. Raises BadCheckpoint."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            plain = json.loads(file.metadata()[PLAIN])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise BadCheckpoint(path, str(error)) from error
    state: dict[str, Any] = insert_tensors(plain, tensors)
    return state


def extract_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401  # a tree of anything
    """Return the value with each tensor moved to ``tensors`` and replaced by its name; keys of dicts become text."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return f"{TENSOR}{name}"
    if isinstance(value, dict):
        return {str(key): extract_tensors(one, f"{name}/{key}", tensors) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [extract_tensors(one, f"{name}/{index}", tensors) for index, one in enumerate(value)]
    return value


def insert_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401  # a tree of anything
    """Reverse ``extract_tensors``. Keys that are numbers, as in torch's optimisers, become numbers again."""
    if isinstance(value, str) and value.startswith(TENSOR):
        return tensors[value.removeprefix(TENSOR)]
    if isinstance(value, dict):
        return {int(key) if key.isdigit() else key: insert_tensors(one, tensors) for key, one in value.items()}
    if isinstance(value, list):
        return [insert_tensors(one, tensors) for one in value]
    return value
