"""What can be wrong with a store.

GoodpartError
└── StoreError
    ├── UnknownProduct      no such product in the store
    ├── UnknownVersion      no such version of the product
    ├── MissingFile         a file that a bundle or teacher names is missing
    ├── DamagedState        a damaged state file
    ├── Conflict            another decision was made at the same moment
    └── StoreUnusable       a folder that can't be read or written
        └── StorageUnreachable      object storage does not answer; a retry may succeed
"""

from model.bundle import GoodpartError


class StoreError(GoodpartError):
    """Root of the store's errors; raised itself where no version is active, or none was before."""

    kind = "store-failed"


class UnknownProduct(StoreError):
    """No such product in the store."""

    kind = "unknown-product"

    def __init__(self, product: str) -> None:
        super().__init__(f"no product is called '{product}'")


class UnknownVersion(StoreError):
    """No such version of the product."""

    kind = "unknown-version"

    def __init__(self, product: str, version: str) -> None:
        super().__init__(f"product '{product}' has no version '{version}'")


def nothing_active_error(product: str) -> StoreError:
    """Return the error of a product without an active version."""
    return StoreError(f"product '{product}' has no active version; train and activate one", kind="nothing-active")


class MissingFile(StoreError):
    """A file that a bundle or teacher names is missing."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is missing from the store")


class DamagedState(StoreError):
    """A damaged state file."""

    def __init__(self, place: object, why: str) -> None:
        super().__init__(f"{'/'.join(str(place).split('/')[-2:])} is damaged: {why}")


class Conflict(StoreError):
    """Another decision was made at the same moment."""

    kind = "changed-meanwhile"

    def __init__(self, product: str) -> None:
        super().__init__(f"product '{product}' was changed by another request at the same time; reload and retry")


class StoreUnusable(StoreError):
    """A folder that can't be read or written."""

    kind = "store-unusable"

    def __init__(self, place: object, why: str) -> None:
        super().__init__(f"can't use the store folder {place}: {why}")


class StorageUnreachable(StoreUnusable):
    """Object storage does not answer; a retry may succeed."""

    exit_code = 75  # sysexits' EX_TEMPFAIL, so that a job is tried again
