"""Store, state and versions, opened by the settings."""

from dataclasses import dataclass
from pathlib import Path

from app.inference.sessions import choose_device
from app.inference.version import Loader, Version
from app.settings import Settings
from app.store.errors import nothing_active_error
from app.store.paths import DEFAULT_COPIES_GIB, DEFAULT_LOCAL, open_storage
from app.store.signing import read_public_keys
from app.store.state import State
from app.store.store import Store


@dataclass(frozen=True)
class OpenStore:
    """A store of versions, and the state with the decisions about them."""

    store: Store
    state: State


def open_store_at(
    store: Path | str,
    state: Path | str | None,
    *,
    local: Path = DEFAULT_LOCAL,
    most_copied_gib: float = DEFAULT_COPIES_GIB,
    keys: Path | None = None,
) -> OpenStore:
    """Open store and state. The state defaults to a folder in the store.

    ``keys``: public keys of which one must have signed a version. Raises SettingsError, StoreUnusable.
    """
    trusted = read_public_keys(keys) if keys else None
    root = open_storage(store, local=local, most_copied_gib=most_copied_gib)
    decided = root / "state" if state is None else open_storage(state, local=local, most_copied_gib=most_copied_gib)
    return OpenStore(Store(root, trusted=trusted), State(decided))


def open_store(settings: Settings) -> OpenStore:
    """Open store and state by the settings. Raises as ``open_store_at``."""
    return open_store_at(
        settings.store,
        settings.state,
        local=settings.local,
        most_copied_gib=settings.most_copied_gib,
        keys=settings.require_signature,
    )


def load_version(settings: Settings, product: str, name: str | None = None) -> Version:
    """Load a version; by default the one that serves. Raises GoodpartError."""
    stored = open_store(settings)
    versions = stored.store.list_versions(product)
    product_state = stored.state.read(product)
    if name is None:
        if product_state.current is None or not versions:
            raise nothing_active_error(product)
        name = product_state.current.version
    device = choose_device(settings.provider, num_threads=settings.threads)
    return Loader(device).load(stored.store.load_bundle(product, name)).with_override(product_state.override)
