"""What can be wrong with a store.

GoodpartError
└── StoreError
    ├── UnknownProduct      no such product in the store
    ├── UnknownVersion      no such version of the product
    ├── NothingActive       a product of which no version has been activated
    ├── MissingFile         a bundle or teacher that lacks a file it names
    ├── NoTransition        a rollback with nothing to go back to
    ├── DamagedState        a state file that is not what it should be
    ├── ChangedMeanwhile    a decision that somebody else has made at the same moment
    └── StoreUnusable       a folder that can't be read or written
        ├── ObjectStorageMissing    a store on object storage, and no package that reaches it
        └── StorageAway             a store on object storage that does not answer; it may later
"""

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

    def __init__(self, place: object, why: str) -> None:
        super().__init__(f"{'/'.join(str(place).split('/')[-2:])} is damaged: {why}")


class ChangedMeanwhile(StoreError):
    """A decision that somebody else has made at the same moment."""

    def __init__(self, product: str) -> None:
        super().__init__(f"somebody else decided something of product '{product}' at the same moment: look again")


class StoreUnusable(StoreError):
    """A folder that can't be read or written."""

    def __init__(self, place: object, why: str) -> None:
        super().__init__(f"can't use the store folder {place}: {why}")


class StorageAway(StoreUnusable):
    """A store on object storage that does not answer, or not as it should; trying again later may help."""

    exit_code = 75  # sysexits' EX_TEMPFAIL, so that a job is tried again


class ObjectStorageMissing(StoreUnusable):
    """A store on object storage, and no package that reaches it."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "pip install 'goodpart[s3]'")
