"""The command ``goodpart`` in the test's own process: its exit code and what it prints, without a start of Python."""

import io
import os
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest import mock

from app.cli.main import main


class Done(NamedTuple):
    """What ``subprocess.run`` says of a command that ended."""

    returncode: int
    stdout: str
    stderr: str


def goodpart(*arguments, **environment):
    """Run a command. ``environment``: variables for this call alone."""
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    with mock.patch.dict(os.environ, environment), redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
    return Done(code, stdout.getvalue(), stderr.getvalue())
