"""Writes what ``make image-test`` found into docs/containers.md."""

import json
from collections.abc import Iterator
from pathlib import Path

import marks

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "containers.md"
RESULTS = ROOT / "bench" / "results" / "images.json"
WORDS = {
    "base_mb": "stand-in base, MB",
    "service_cpu_mb": "`service-cpu` with it, MB",
    "service_gpu_mb": "`service-gpu` with it, MB",
    "training_mb": "`training` with it, MB",
    "base_s": "making the base, s",
    "service_cpu_build_s": "building `service-cpu`, s",
    "service_gpu_build_s": "building `service-gpu`, s",
    "training_build_s": "building `training`, s",
    "train_s": "`train --quick` in its image, s",
    "ready_after_s": "the service's image ready after, s",
    "user": "its user",
    "read_only_root": "its root can't be written",
    "torch_in_service": "torch is in it",
    "healthy": "its `HEALTHCHECK` says that it is healthy",
    "version_taken_up": "the version trained meanwhile was taken up",
    "requests": "requests meanwhile",
    "failed": "of them failed",
    "exit_code": "exit code after SIGTERM",
    "service_does_not_need": "what nothing of it imports, MB",
    "service_gpu_without_a_gpu": "`service-gpu` on a machine without a GPU",
}


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(fill(PAGE.read_text()))


def fill(page: str) -> str:
    """Return the page with its current table."""
    return marks.fill(page, "images", "\n".join(rows()))


def rows() -> Iterator[str]:
    """A row a figure."""
    measured = json.loads(RESULTS.read_text())
    yield "| what | found |"
    yield "| --- | --- |"
    for key, words in WORDS.items():
        if key in measured:
            yield f"| {words} | {describe(measured[key])} |"


def describe(found: object) -> str:
    """Return a figure in words."""
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, dict):
        return ", ".join(f"{name} {size}" for name, size in found.items())
    return f"{found:,}" if isinstance(found, int | float) else str(found)


if __name__ == "__main__":
    main()
