"""``goodpart doctor``: what this installation is made of, what is wrong with it, and how to mend that."""

import os
import platform
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnxruntime as ort

from app.bootstrap import Stored, stored_by
from app.errors import ProviderMissing
from app.inference.sessions import available_cpus, chosen_device
from app.settings import Settings
from app.store import paths
from app.store.errors import StoreError
from app.store.s3 import ObjectPath
from model.bundle import BadName, BundleError

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``trouble`` says what is wrong and how to mend it, None where nothing is."""

    what: str
    value: str
    trouble: str | None = None


def examine(settings: Settings) -> list[Finding]:
    """Everything that a person who asks for help should send along."""
    parts: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        libraries,
        devices,
        store_findings,
        product_findings,
        address,
        limits,
    )
    return [finding for part in parts for finding in part(settings)]


def installed(package: str) -> str | None:
    """A package's version, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def libraries(_: Settings) -> Iterator[Finding]:
    """What runs here."""
    yield Finding("goodpart", f"{version('goodpart')}, Python {platform.python_version()}, {platform.platform()}")
    runtimes = [f"{package} {found}" for package in RUNTIMES if (found := installed(package))]
    trouble = None
    if len(runtimes) > 1:
        trouble = (
            "the two overwrite each other's files: pip uninstall both, then install goodpart[cpu] or goodpart[gpu]"
        )
    yield Finding("runtime", ", ".join(runtimes) or f"onnxruntime {ort.__version__}", trouble)
    torch = installed("torch")
    yield Finding("training", f"torch {torch}" if torch else "not installed (pip install 'goodpart[train]')")


def devices(settings: Settings) -> Iterator[Finding]:
    """Where graphs run."""
    offered = ", ".join(ort.get_available_providers())
    try:
        device = chosen_device(settings.provider, num_threads=settings.threads)
    except ProviderMissing as error:
        yield Finding("provider", f"asked: {settings.provider}; offered: {offered}", str(error))
    else:
        yield Finding("provider", f"asked: {settings.provider}; takes: {device.provider}; offered: {offered}")
    trouble = None
    if settings.threads > available_cpus():
        trouble = f"more threads than processors slow each other: set GOODPART_THREADS to {available_cpus()} or less"
    yield Finding("threads", f"{settings.threads} of {available_cpus()} processors", trouble)


def store_findings(settings: Settings) -> Iterator[Finding]:
    """Whether store and state can be used."""
    try:
        stored = stored_by(settings)
    except StoreError as error:
        yield Finding("store", str(settings.store), str(error))
        return
    for what, place in (("store", stored.store.root), ("state", stored.state.root)):
        yield folder_finding(what, place) if isinstance(place, Path) else bucket_finding(what, place)


def folder_finding(what: str, folder: Path) -> Finding:
    """Whether a folder can be used."""
    name = str(folder.resolve())
    if not os.path.isdir(folder):  # noqa: PTH112  # says no where pathlib raises for want of permission
        return Finding(what, name, "no such folder that this user can see; `goodpart train --store` makes one")
    if not os.access(folder, os.R_OK | os.X_OK):
        return Finding(what, name, "may not be read by this user: change its owner or mode")
    may_write = "may be written" if os.access(folder, os.W_OK) else "may only be read"
    return Finding(what, f"{name}, {may_write}")


def bucket_finding(what: str, place: ObjectPath) -> Finding:
    """Whether object storage answers."""
    try:
        is_there = paths.is_folder(place)
    except StoreError as error:
        return Finding(what, str(place), f"{error}; address and keys are AWS_* variables")
    return Finding(what, str(place), None if is_there else "nothing is there; `goodpart train --store` makes one")


def product_findings(settings: Settings) -> Iterator[Finding]:
    """Every product, and whether its version can serve: each byte is held against its digest."""
    try:
        stored = stored_by(settings)
        products = stored.store.products()
    except StoreError as error:
        yield Finding("products", "unknown", str(error))
        return
    if not products:
        yield Finding("products", "none", "nothing can be judged yet: train one with `goodpart train`")
    for product in products:
        yield product_finding(stored, product)


def product_finding(stored: Stored, product: str) -> Finding:
    """One product."""
    what = f"product {product}"
    try:
        current = stored.state.current(product)
        if current is None:
            return Finding(what, f"{len(stored.store.versions(product))} versions", "none is active: activate one")
        bundle = stored.store.bundle(product, current.version)
    except (StoreError, BundleError, BadName) as error:
        return Finding(what, "can't serve", f"{error}; activate another version, or train it anew")
    promise = bundle.manifest.promise
    return Finding(what, f"version {current.version} serves, {promise.supported:.2%} false alarms promised")


def address(settings: Settings) -> Iterator[Finding]:
    """Whether the service could listen."""
    where = f"{settings.host}:{settings.port}"
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            trouble = f"{error.strerror}: choose another with --port, or end what listens there"
            yield Finding("address", where, trouble)
            return
    yield Finding("address", f"{where} is free")


def limits(settings: Settings) -> Iterator[Finding]:
    """What an image may be."""
    yield Finding(
        "limits",
        f"{settings.max_upload_bytes:,} bytes and {settings.max_pixels:,} pixels an image, "
        f"{settings.max_batch_images} images and {settings.max_batch_upload_bytes:,} bytes a batch",
    )


def lines(findings: list[Finding]) -> Iterator[str]:
    """The report as text: a line a finding, and a line for what is wrong."""
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        yield f"{'ok' if finding.trouble is None else '!!'}  {finding.what:<{width}}  {finding.value}"
        if finding.trouble is not None:
            yield f"    {'':<{width}}  -> {finding.trouble}"
