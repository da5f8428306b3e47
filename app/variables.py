"""Names of the settings' environment variables, and those of a training, read without the service's settings."""

import os

PREFIX = "GOODPART_"
# Prefix of the trainer's variables.
TRAIN_PREFIX = "GOODPART_TRAIN_"


def read_train_variables() -> dict[str, str]:
    """Return the trainer's variables without their prefix, in lower case."""
    found = os.environ.items()  # noqa: TID251  # this and app.settings are the places that read the environment
    return {name[len(TRAIN_PREFIX) :].lower(): value for name, value in found if name.upper().startswith(TRAIN_PREFIX)}
