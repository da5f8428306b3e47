"""The program ``goodpart``: its health check at once, everything else by way of its commands."""

import sys

from app.cli import health


def main() -> None:
    """Run what is asked for."""
    if sys.argv[1:2] == ["health"] and not {"-h", "--help"} & set(sys.argv):
        sys.exit(health.main(sys.argv[2:]))
    # Not above: it imports ONNX Runtime, Pillow and FastAPI, which a health check does without.
    from app.cli.main import main as run_command  # noqa: PLC0415

    run_command()
