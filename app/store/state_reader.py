"""Reads the decisions about many products at once: one request a product, and files only where they changed."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from app.store import paths
from app.store.errors import StoreError
from app.store.state import FILES, ProductState, State
from model.bundle import BadName

NUM_READERS = 8
StateOrError = ProductState | StoreError | BadName


@dataclass(frozen=True)
class KnownState:
    """What was read of a product, and the tags of the files then."""

    etags: Mapping[str, str]
    state: ProductState


class StateReader:
    """Reads a state again and again. Not for several threads at once."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._known: dict[str, KnownState] = {}
        self._executor = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="state")

    def read_all(self, products: Sequence[str]) -> dict[str, StateOrError]:
        """Return the decisions about each product, or the error of reading them."""
        found = dict(zip(products, self._executor.map(self._read, products), strict=True))
        self._known = {product: self._known[product] for product in products if product in self._known}
        return found

    def _read(self, product: str) -> StateOrError:
        try:
            etags = self._list_etags(product)
            known = self._known.get(product)
            if known is not None and etags == known.etags:
                return known.state
            state = self.state.read(product)
        except (StoreError, BadName) as error:
            return error
        if etags is not None:
            self._known[product] = KnownState(etags, state)
        return state

    def _list_etags(self, product: str) -> Mapping[str, str] | None:
        """Return the tags of a product's files; None where the storage does not answer, but copies may."""
        try:
            found = paths.list_etags(self.state.product_folder(product))
        except StoreError:
            return None
        return {name: etag for name, etag in found.items() if name in FILES}
