"""Store and state as the settings name them, for service and command line alike."""

from dataclasses import dataclass
from pathlib import Path

from app.inference.sessions import chosen_device
from app.inference.version import Loader, Version
from app.settings import Settings
from app.store.errors import NothingActive
from app.store.paths import LOCAL, MOST_COPIED_GIB, place_of
from app.store.signing import read_public_keys
from app.store.state import State
from app.store.store import Store


@dataclass(frozen=True)
class Stored:
    """What is known of products: their versions, and what was decided of them."""

    store: Store
    state: State


def stored_at(
    store: Path | str,
    state: Path | str | None,
    *,
    local: Path = LOCAL,
    most_copied_gib: float = MOST_COPIED_GIB,
    keys: Path | None = None,
) -> Stored:
    """Store and state where people say they are; the state, if nobody says, in the store.

    ``keys``: public keys of which one must have signed a version. Raises BadSigningKey, StoreUnusable.
    """
    trusted = read_public_keys(keys) if keys else None
    root = place_of(store, local=local, most_copied_gib=most_copied_gib)
    decided = root / "state" if state is None else place_of(state, local=local, most_copied_gib=most_copied_gib)
    return Stored(Store(root, trusted=trusted), State(decided))


def stored_by(settings: Settings) -> Stored:
    """Store and state by the settings; only signed versions show where that is asked. As ``stored_at``."""
    return stored_at(
        settings.store,
        settings.state,
        local=settings.local,
        most_copied_gib=settings.most_copied_gib,
        keys=settings.require_signature,
    )


def loaded_version(settings: Settings, product: str, name: str | None = None) -> Version:
    """A version ready to judge; by default the one that serves. Raises GoodpartError."""
    stored = stored_by(settings)
    versions = stored.store.versions(product)
    orders = stored.state.orders(product)
    if name is None:
        if orders.current is None or not versions:
            raise NothingActive(product)
        name = orders.current.version
    device = chosen_device(settings.provider, num_threads=settings.threads)
    return Loader(device).load(stored.store.bundle(product, name)).ruled(orders.override)
