"""A Ray cluster, for whoever hands work to it: joined in one way, and its troubles told in one line."""

import logging


def join(address: str) -> None:
    """Join the cluster at this address; its workers' words stay with them."""
    import ray  # noqa: PLC0415  # an extra

    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.WARNING)


def in_one_line(error: Exception) -> str:
    """What Ray says last, which is the cause, or what it is."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
