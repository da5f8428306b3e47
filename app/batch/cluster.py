"""A Ray cluster: joining it, and its errors in one line."""

import logging


def join_cluster(address: str) -> None:
    """Join the cluster at this address. Output of its workers is not forwarded."""
    import ray  # noqa: PLC0415  # an extra

    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.WARNING)


def summarise_error(error: Exception) -> str:
    """Return the last line of an error, which is Ray's cause, or its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
