"""The program ``goodpart``: runs the health check without imports, everything else through the commands."""

import sys

from app.cli import health


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["health"] and not {"-h", "--help"} & set(sys.argv):
        sys.exit(health.main(sys.argv[2:]))
    # A late import: it loads ONNX Runtime, Pillow and FastAPI, which a health check does not need.
    from app.cli.main import main as run_command  # noqa: PLC0415

    run_command()
