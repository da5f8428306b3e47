"""The program ``goodpart``: its health check at once, everything else by way of its commands."""

import sys

from app import health


def main() -> None:
    """Run what is asked for."""
    if sys.argv[1:2] == ["health"] and not {"-h", "--help"} & set(sys.argv):
        sys.exit(health.main(sys.argv[2:]))
    from app import cli  # noqa: PLC0415  # ONNX Runtime, Pillow and FastAPI, which a health check does without

    cli.main()
