"""The program ``goodpart``: runs the health check without imports, everything else through the commands."""

import sys

from app.cli import health


def main() -> None:
    """Run the command line. Each import is late: the health check needs none, and a wrong setting of a training few."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name == "health" and not {"-h", "--help"} & set(sys.argv):
        sys.exit(health.main(sys.argv[2:]))
    from app.cli import group  # noqa: PLC0415

    if group.is_installed(name):
        group.run(group.Commands(context_settings=group.CONTEXT_SETTINGS))
        return
    from app.cli.main import main as run_command  # noqa: PLC0415

    run_command()
