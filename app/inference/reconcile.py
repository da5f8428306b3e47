"""What the decisions about a product ask for, against what is in memory. Pure functions, which load nothing."""

from dataclasses import dataclass, replace

from app.inference.status import ProductStatus, Shadow
from app.inference.version import Version
from app.store.state import ProductState

# Interval between retries of a failed version: the cause may go away. Each retry reads all its files.
RETRY_AFTER_S = 30.0
GONE = "it was activated, and its current.json is gone; what is in memory goes on judging"


@dataclass(frozen=True)
class Step:
    """The status that holds at once, and the version to load, if any."""

    status: ProductStatus
    load: str | None = None


def plan_serving(old: ProductStatus, decided: ProductState, *, now_s: float, has_room: bool) -> Step:
    """Return the status of a product by the decisions about it. ``has_room``: whether one more may be loaded."""
    if decided.current is None:
        return Step(replace(old, error=GONE) if old.serving is not None else ProductStatus(old.product))
    version, status = decided.current.version, apply_override(old, decided)
    if status.serving is not None and status.serving.name == version:
        return Step(replace(status, activated=version, error=None))
    has_failed = status.activated == version and status.error is not None
    if status.activated == version and now_s < status.retry_at_s:
        return Step(status)
    if status.serving is None and not has_room:
        return Step(status if has_failed else replace(status, activated=version, is_evicted=True, error=None))
    return Step(status, load=version)


def apply_override(old: ProductStatus, decided: ProductState) -> ProductStatus:
    """Return the status with the threshold that was decided."""
    serving = old.serving.with_override(decided.override) if old.serving is not None else None
    return replace(old, override=decided.override, serving=serving)


def set_loaded(status: ProductStatus, loaded: Version) -> ProductStatus:
    """Return the status with a version that was loaded serving."""
    return replace(
        status,
        serving=loaded.with_override(status.override),
        activated=loaded.name,
        is_evicted=False,
        error=None,
        retry_at_s=0.0,
    )


def set_failed(status: ProductStatus, version: str, error: Exception, *, now_s: float) -> ProductStatus:
    """Return the status with a version that could not be loaded; what serves goes on."""
    return replace(status, activated=version, is_evicted=False, error=str(error), retry_at_s=now_s + RETRY_AFTER_S)


def plan_shadow(status: ProductStatus, decided: ProductState, *, now_s: float) -> Step:
    """Return the status with the candidate that was decided, and the candidate to load, if any."""
    order = decided.shadow
    if order is None:
        broken = Shadow("?", 0.0, error=decided.shadow_error) if decided.shadow_error else None
        return Step(replace(status, shadow=broken))
    if status.serving is None:
        return Step(replace(status, shadow=Shadow(order.version, order.share)))
    known = status.shadow
    if known is not None and known.version == order.version and (known.candidate or now_s < known.retry_at_s):
        return Step(replace(status, shadow=replace(known, share=order.share)))
    return Step(replace(status, shadow=Shadow(order.version, order.share)), load=order.version)


def set_candidate(status: ProductStatus, candidate: Version) -> ProductStatus:
    """Return the status with a candidate that was loaded."""
    return replace_shadow(status, candidate=candidate, error=None)


def set_candidate_failed(status: ProductStatus, error: Exception, *, now_s: float) -> ProductStatus:
    """Return the status with a candidate that could not be loaded."""
    return replace_shadow(status, error=str(error), retry_at_s=now_s + RETRY_AFTER_S)


def replace_shadow(status: ProductStatus, **changes: object) -> ProductStatus:
    """Return the status with its shadow changed."""
    if status.shadow is None:
        return status
    return replace(status, shadow=replace(status.shadow, **changes))  # type: ignore[arg-type]  # fields of Shadow
