"""Errors: what clients see of each kind, and how few classes there are."""

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.api.problems import PROBLEMS

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "model", "training")
MAX_CLASSES = 28
ROOT_KIND = "failed"
# Kinds that no request meets: those of the command line, of settings and of training.
COMMAND_LINE_ONLY = {
    ROOT_KIND,
    "already-running",
    "bad-checkpoint",
    "bad-image",
    "bad-settings",
    "bad-weights",
    "can-not-adapt",
    "command-failed",
    "device-missing",
    "disk-too-small",
    "misplaced-images",
    "no-images",
    "not-learned",
    "odd-sizes",
    "out-of-memory",
    "parity-failed",
    "stopped",
    "too-few-images",
    "training-failed",
}
# Status and title of every problem type, as clients know them. A change here breaks clients.
ON_THE_WIRE = {
    "empty-image": (400, "Empty image"),
    "not-an-image": (415, "Not an image"),
    "truncated-image": (422, "Truncated image"),
    "image-too-large": (413, "Image too large"),
    "too-many-frames": (422, "Too many frames"),
    "unsupported-mode": (422, "Unsupported colours"),
    "wrong-bit-depth": (422, "Wrong bit depth"),
    "invalid-input": (422, "Invalid input"),
    "queue-full": (503, "Queue full"),
    "deadline-passed": (504, "Deadline passed"),
    "worker-died": (503, "Inference worker ended"),
    "version-unusable": (503, "Version can't serve"),
    "model-failed": (500, "Model failed"),
    "unknown-product": (404, "Unknown product"),
    "unknown-version": (404, "Unknown version"),
    "nothing-active": (409, "No active version"),
    "nothing-earlier": (409, "No earlier version"),
    "changed-meanwhile": (409, "Changed meanwhile"),
    "store-unusable": (503, "Store can't be used"),
    "store-failed": (500, "Store failed"),
    "too-many-watchers": (503, "Too many watchers"),
    "bad-name": (422, "Bad name"),
    "bad-bundle": (409, "Version refused"),
    "body-too-large": (413, "Body too large"),
    "wrong-media-type": (415, "Wrong media type"),
    "missing-image": (422, "Missing image"),
    "too-many-images": (413, "Too many images"),
    "client-gone": (400, "Client gone"),
    "bad-form": (400, "Bad form"),
    "bad-tensors": (400, "Bad tensors"),
    "body-too-slow": (408, "Body too slow"),
    "key-reused": (422, "Idempotency key reused"),
    "no-history": (404, "No history"),
    "unknown-inspection": (404, "Unknown inspection"),
    "no-image": (404, "No image"),
    "unauthorized": (401, "API key missing or unknown"),
    "forbidden": (403, "Scope missing"),
    "from-elsewhere": (403, "Another site's page"),
    "invalid-request": (422, "Invalid request"),
    "internal-error": (500, "Internal error"),
}


@dataclass(frozen=True)
class ErrorClass:
    """An exception class as the source defines it. ``kind``: its own default, or None."""

    base: str
    kind: str | None


def parse_all() -> Iterator[ast.Module]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            yield ast.parse(path.read_text())


def get_name(node: ast.expr) -> str:
    """Return the last part of a dotted name, or nothing."""
    return ast.unparse(node).rpartition(".")[2] if isinstance(node, ast.Name | ast.Attribute) else ""


def find_classes() -> dict[str, ErrorClass]:
    """Return every exception class by its name."""
    nodes = [node for tree in parse_all() for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.bases]
    bases = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)}
    found: dict[str, ErrorClass] = {}
    while new := [node for node in nodes if node.name not in found and get_name(node.bases[0]) in bases | set(found)]:
        found |= {node.name: ErrorClass(get_name(node.bases[0]), find_own_kind(node)) for node in new}
    return found


def find_own_kind(node: ast.ClassDef) -> str | None:
    assigned = [one for one in node.body if isinstance(one, ast.Assign) and get_name(one.targets[0]) == "kind"]
    return str(ast.literal_eval(assigned[0].value)) if assigned else None


def find_default_kind(name: str, classes: dict[str, ErrorClass]) -> str | None:
    """Return the default kind of a class, or None where it is no GoodpartError."""
    if name not in classes:
        return None
    return classes[name].kind or find_default_kind(classes[name].base, classes)


def find_kinds(tree: ast.Module, classes: dict[str, ErrorClass]) -> Iterator[str]:
    """Yield the kind of each error that a module creates: the literal one, or its class's default."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (default := find_default_kind(get_name(node.func), classes)):
            given = [keyword.value for keyword in node.keywords if keyword.arg == "kind"]
            yield ast.literal_eval(given[0]) if given else default


def test_every_kind_has_a_status_or_never_meets_a_request():
    classes = find_classes()
    created = {kind for tree in parse_all() for kind in find_kinds(tree, classes)}
    kinds = created | {kind for name in classes if (kind := find_default_kind(name, classes))}
    assert ROOT_KIND not in created
    assert kinds - set(PROBLEMS) == COMMAND_LINE_ONLY
    assert set(PROBLEMS) - kinds == {"internal-error"}  # of exceptions that are not ours


def test_what_clients_see_of_each_kind_stays():
    assert {kind: (int(status), title) for kind, (status, title) in PROBLEMS.items()} == ON_THE_WIRE


def test_there_are_few_classes_of_errors():
    assert 20 < len(find_classes()) <= MAX_CLASSES
