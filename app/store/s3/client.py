"""The client of object storage: calls of fsspec's S3 with a time limit, and one error for each kind of answer."""

import errno
from collections.abc import Iterator
from http import HTTPStatus
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any

from app.store.errors import StoreUnusable
from app.store.s3.breaker import CircuitBreaker
from app.store.storage import NO_ETAG

CONNECTION = {"connect_timeout": 3, "read_timeout": 5, "retries": {"total_max_attempts": 1}}
NUM_TRIES = 2
# Timeout of requests and small reads; that of large files depends on their size.
SMALL_TIMEOUT_S, LARGE_TIMEOUT_S, MIN_BYTES_PER_S = 8.0, 60.0, 100_000
# Responses to a failed condition: it does not hold, or another write is in progress.
CONFLICT_STATUSES = {HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED}
# Errors of botocore and aiohttp are not OSErrors; s3fs converts only error responses of the storage.
FOREIGN = {"botocore", "aiobotocore", "aiohttp", "urllib3", "asyncio"}
WRITES = {"pipe_file", "rm_file"}


class S3Client:
    """Objects by key. Methods raise Unreachable where the storage does not answer, or with a server error.

    Others: FileNotFoundError; PermissionError of a write; FileExistsError where a condition does not hold.
    """

    def __init__(self, files: Any, breaker: CircuitBreaker) -> None:  # noqa: ANN401  # fsspec has no types
        self.files = files
        self.breaker = breaker

    def get(self, key: str, *, is_large: bool = True) -> bytes:
        """Return an object's content."""
        timeout_s = LARGE_TIMEOUT_S if is_large else SMALL_TIMEOUT_S
        return bytes(self._call("cat_file", key, max_concurrency=1, timeout_s=timeout_s))

    def put(self, key: str, data: bytes, *, instead_of: str | None = None) -> None:
        """Write an object; with ``instead_of`` only while that is its tag."""
        # Conditional writes replace a lock: storage accepts one of two writes that saw the same tag (decision 011).
        condition = {} if instead_of is None else {"IfMatch": instead_of}
        if instead_of == NO_ETAG:
            condition = {"IfNoneMatch": "*"}
        self._call("pipe_file", key, data, timeout_s=LARGE_TIMEOUT_S + len(data) / MIN_BYTES_PER_S, **condition)

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._call("rm_file", key)

    def iter_entries(self, key: str) -> Iterator[dict[str, Any]]:
        """Yield what is in a folder: ``name``, ``type`` and, of files, ``ETag``. Nothing where it does not exist."""
        try:
            yield from self._call("ls", key, detail=True, refresh=True)
        except FileNotFoundError:  # a folder is there only through what is in it
            return

    def iter_objects(self, key: str) -> Iterator[dict[str, Any]]:
        """Yield all objects under a key, by name: ``name``, ``LastModified``."""
        found = self._call("find", key, detail=True)
        yield from (found[name] for name in sorted(found))

    def exists(self, key: str) -> bool:
        """Whether an object exists, or anything under it."""
        return any(True for _ in self.iter_entries(key))

    def get_etag(self, key: str) -> str:
        """Return the tag of an object; ``NO_ETAG`` where there is none."""
        try:
            return str(self._call("info", key, refresh=True)["ETag"])
        except FileNotFoundError:
            return NO_ETAG

    def _call(self, what: str, *given: Any, timeout_s: float = SMALL_TIMEOUT_S, **options: Any) -> Any:  # noqa: ANN401  # as ``files``
        self.breaker.check()
        try:
            answer = getattr(self.files, what)(*given, timeout=timeout_s, **options)
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in FOREIGN:
                raise
            status, code = parse_response(error)
            is_missing = isinstance(error, FileNotFoundError) and code != "NoSuchBucket"
            is_refused = isinstance(error, PermissionError) and what in WRITES
            if not (is_missing or is_refused or status in CONFLICT_STATUSES):
                raise self.breaker.open(error) from error
            self.breaker.close()
            if status in CONFLICT_STATUSES:
                raise FileExistsError(errno.EEXIST, code) from error
            raise
        self.breaker.close()
        return answer


def parse_response(error: Exception) -> tuple[int | None, str]:
    """Return status and code of the storage's response; None where it did not answer."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode"), response.get("Error", {}).get("Code", "")


def get_name(entry: dict[str, Any]) -> str:
    """Return the last part of an entry's key."""
    return PurePosixPath(entry["name"]).name


def connect(url: str) -> S3Client:
    """Return a client. Address, region and keys are those of the ``AWS_*`` variables.

    Raises StoreUnusable where the package is not installed.
    """
    try:
        s3fs = import_module("s3fs")
    except ModuleNotFoundError as error:
        raise StoreUnusable(url, "pip install 'goodpart[s3]'") from error
    files = s3fs.S3FileSystem(config_kwargs=CONNECTION, use_listings_cache=False, skip_instance_cache=True)
    files.retries = NUM_TRIES
    return S3Client(files, CircuitBreaker())
