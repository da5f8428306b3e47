"""The status of a product: what serves, what should serve, and what runs in shadow."""

from dataclasses import dataclass

from app.inference.version import Version
from app.store.state import Override


@dataclass(frozen=True)
class Shadow:
    """The candidate that runs in shadow; ``error`` says why it does not."""

    version: str
    share: float
    candidate: Version | None = None
    error: str | None = None
    retry_at_s: float = 0.0


@dataclass(frozen=True)
class ProductStatus:
    """The status of a product: the serving and the activated version; ``error`` says why the latter does not serve.

    ``is_evicted``: it was unloaded to free memory, and is loaded again on request. ``retry_at_s``: when an activated
    version that failed is tried again, by the registry's clock.
    """

    product: str
    serving: Version | None = None
    activated: str | None = None
    override: Override | None = None
    shadow: Shadow | None = None
    is_evicted: bool = False
    error: str | None = None
    retry_at_s: float = 0.0
