"""``goodpart doctor``: describes an installation, its errors and their remedies."""

import os
import platform
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnxruntime as ort

from app.bootstrap import OpenStore, open_store
from app.errors import ModelError
from app.inference.sessions import available_cpus, choose_device
from app.settings import Settings
from app.store import paths
from app.store.errors import StoreError
from app.store.s3.storage import ObjectPath
from model.bundle import BadName, BundleError

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Diagnosis:
    """One line of the report; ``error``: what is wrong and how to fix it, or None."""

    what: str
    value: str
    error: str | None = None


def run_diagnostics(settings: Settings) -> list[Diagnosis]:
    """Run all checks."""
    parts: tuple[Callable[[Settings], Iterator[Diagnosis]], ...] = (
        check_libraries,
        check_devices,
        check_stores,
        check_products,
        check_address,
        check_limits,
    )
    return [finding for part in parts for finding in part(settings)]


def find_version(package: str) -> str | None:
    """Return a package's version, or None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_libraries(_: Settings) -> Iterator[Diagnosis]:
    """Check the installed packages."""
    yield Diagnosis("goodpart", f"{version('goodpart')}, Python {platform.python_version()}, {platform.platform()}")
    runtimes = [f"{package} {found}" for package in RUNTIMES if (found := find_version(package))]
    message = None
    if len(runtimes) > 1:
        message = (
            "the two overwrite each other's files: pip uninstall both, then install goodpart[cpu] or goodpart[gpu]"
        )
    yield Diagnosis("runtime", ", ".join(runtimes) or f"onnxruntime {ort.__version__}", message)
    torch = find_version("torch")
    yield Diagnosis("training", f"torch {torch}" if torch else "not installed (pip install 'goodpart[train]')")


def check_devices(settings: Settings) -> Iterator[Diagnosis]:
    """Check the devices that run the graphs."""
    offered = ", ".join(ort.get_available_providers())
    try:
        device = choose_device(settings.provider, num_threads=settings.threads)
    except ModelError as error:
        yield Diagnosis("provider", f"asked: {settings.provider}; offered: {offered}", str(error))
    else:
        yield Diagnosis("provider", f"asked: {settings.provider}; takes: {device.provider}; offered: {offered}")
    message = None
    if settings.threads > available_cpus():
        message = (
            f"more threads than processors slow inference down: set GOODPART_THREADS to {available_cpus()} or less"
        )
    yield Diagnosis("threads", f"{settings.threads} of {available_cpus()} processors", message)
    yield Diagnosis("load", describe_load(os.getloadavg()[0], num_cpus=os.cpu_count() or 1))


def describe_load(load: float, *, num_cpus: int) -> str:
    """Return what the number of processes that run or wait means for speed."""
    busy = f"{load:.1f} processes on {num_cpus} processors in the last minute"
    return f"{busy}: inference and training share them and are slower" if load > num_cpus / 2 else busy


def check_stores(settings: Settings) -> Iterator[Diagnosis]:
    """Check whether store and state can be used."""
    try:
        stored = open_store(settings)
    except StoreError as error:
        yield Diagnosis("store", str(settings.store), str(error))
        return
    for what, path in (("store", stored.store.root), ("state", stored.state.root)):
        yield check_folder(what, path) if isinstance(path, Path) else check_bucket(what, path)


def check_folder(what: str, folder: Path) -> Diagnosis:
    """Check a folder."""
    name = str(folder.resolve())
    if not os.path.isdir(folder):  # noqa: PTH112  # returns False where pathlib raises PermissionError
        return Diagnosis(what, name, "no such folder, or no access; `goodpart train --store` creates one")
    if not os.access(folder, os.R_OK | os.X_OK):
        return Diagnosis(what, name, "is not readable by this user: change its owner or mode")
    may_write = "may be written" if os.access(folder, os.W_OK) else "may only be read"
    return Diagnosis(what, f"{name}, {may_write}")


def check_bucket(what: str, path: ObjectPath) -> Diagnosis:
    """Check object storage."""
    try:
        is_there = paths.is_folder(path)
    except StoreError as error:
        return Diagnosis(what, str(path), f"{error}; address and keys are AWS_* variables")
    return Diagnosis(what, str(path), None if is_there else "nothing found; `goodpart train --store` creates one")


def check_products(settings: Settings) -> Iterator[Diagnosis]:
    """Check every product; each byte of its version is compared with its digest."""
    try:
        stored = open_store(settings)
        products = stored.store.list_products()
    except StoreError as error:
        yield Diagnosis("products", "unknown", str(error))
        return
    if not products:
        yield Diagnosis("products", "none", "no product yet: train one with `goodpart train`")
    for product in products:
        yield check_one_product(stored, product)


def check_one_product(stored: OpenStore, product: str) -> Diagnosis:
    """Check one product."""
    what = f"product {product}"
    try:
        current = stored.state.read_current(product)
        if current is None:
            return Diagnosis(
                what, f"{len(stored.store.list_versions(product))} versions", "none is active: activate one"
            )
        bundle = stored.store.load_bundle(product, current.version)
    except (StoreError, BundleError, BadName) as error:
        return Diagnosis(what, "can't serve", f"{error}; activate another version, or train it again")
    promise = bundle.manifest.promise
    return Diagnosis(what, f"version {current.version} serves, {promise.supported:.2%} false alarms promised")


def check_address(settings: Settings) -> Iterator[Diagnosis]:
    """Check whether the service could listen."""
    where = f"{settings.host}:{settings.port}"
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            message = f"{error.strerror}: choose another with --port, or stop what listens there"
            yield Diagnosis("address", where, message)
            return
    yield Diagnosis("address", f"{where} is free")


def check_limits(settings: Settings) -> Iterator[Diagnosis]:
    """List the limits of an image."""
    yield Diagnosis(
        "limits",
        f"{settings.max_upload_bytes:,} bytes and {settings.max_pixels:,} pixels an image, "
        f"{settings.max_batch_images} images and {settings.max_batch_upload_bytes:,} bytes a batch",
    )


def format_report(findings: list[Diagnosis]) -> Iterator[str]:
    """Yield the report as text: a line for each check, and a line for each error."""
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        yield f"{'ok' if finding.error is None else '!!'}  {finding.what:<{width}}  {finding.value}"
        if finding.error is not None:
            yield f"    {'':<{width}}  -> {finding.error}"
