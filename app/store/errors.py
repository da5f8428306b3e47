"""What can be wrong with a store.

GoodpartError
└── StoreError
    ├── UnknownProduct      no such product in the store
    ├── UnknownVersion      no such version of the product
    ├── NothingActive       a product of which no version has been activated
    ├── MissingFile         a bundle or teacher that lacks a file it names
    ├── NoTransition        a rollback with nothing to go back to
    ├── DamagedState        a state file that is not what it should be
    └── StoreUnusable       a folder that can't be read or written
"""

from pathlib import Path

from model.bundle import GoodpartError


class StoreError(GoodpartError):
    """Root of the store's errors."""


class UnknownProduct(StoreError):
    """No such product in the store."""

    def __init__(self, product: str) -> None:
        super().__init__(f"no product is called '{product}'")


class UnknownVersion(StoreError):
    """No such version of the product."""

    def __init__(self, product: str, version: str) -> None:
        super().__init__(f"product '{product}' has no version '{version}'")


class NothingActive(StoreError):
    """A product of which no version has been activated."""

    def __init__(self, product: str) -> None:
        super().__init__(f"product '{product}' has no active version; train and activate one")


class MissingFile(StoreError):
    """A bundle or teacher that lacks a file it names."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is missing from the store")


class NoTransition(StoreError):
    """A rollback with nothing to go back to."""

    def __init__(self, product: str) -> None:
        super().__init__(f"product '{product}' has no earlier active version to go back to")


class DamagedState(StoreError):
    """A state file that is not what it should be."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path.parent.name}/{path.name} is damaged: {why}")


class StoreUnusable(StoreError):
    """A folder that can't be read or written."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"can't use the store folder {path}: {why}")
