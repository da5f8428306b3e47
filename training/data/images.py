"""Image files of a training, each read once while they fit into memory together.

A training needs every good image about ten times: for its digest and its header, to check it, for features, parity,
pictures and the gate. On a network share each of these was a read of its own.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from app.errors import ImageError
from app.imaging.decode import Image, decode, open_image
from model.bundle import InputRecord
from training.errors import BadImage

# Bytes of files that stay in memory: a quarter of what features may take by default, and room for 500 images of 2 MB,
# as many as a promise of 1 % requires. Beyond it, files are read again for each step.
MAX_KEPT_BYTES = 2**30


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image: its mode as Pillow names it, and width and height in pixels."""

    mode: str
    size: tuple[int, int]

    @property
    def num_pixels(self) -> int:
        """The number of pixels."""
        return self.size[0] * self.size[1]


@dataclass(frozen=True)
class FileFacts:
    """Facts that are kept of every file. ``digest``: SHA-256 in hex; ``header``: None where it is damaged."""

    digest: str
    header: ImageHeader | None


class ImageSource:
    """Reads files, by any number of threads. Keeps the bytes of the first ones up to ``max_bytes`` in total.

    What is kept stays. Each step of a training reads all images in the same order; a cache that made room for the
    latest file would always have dropped the one that is needed next.
    """

    def __init__(self, *, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self._num_free_bytes = max_bytes
        self._files: dict[Path, bytes] = {}
        self._facts: dict[Path, FileFacts] = {}
        self._lock = Lock()

    def read(self, path: Path) -> bytes:
        """Return a file's bytes, from memory if they are kept. Raises OSError."""
        data = self._files.get(path)
        if data is None:
            data = path.read_bytes()
            self._keep(path, data)
        return data

    def read_facts(self, path: Path) -> FileFacts:
        """Return the facts of a file, which is read for them at most once. Raises OSError."""
        facts = self._facts.get(path)
        if facts is None:
            facts = self._facts[path] = compute_facts(self.read(path))
        return facts

    def _keep(self, path: Path, data: bytes) -> None:
        with self._lock:
            if path not in self._files and len(data) <= self._num_free_bytes:
                self._files[path] = data
                self._num_free_bytes -= len(data)


@dataclass(frozen=True, order=True)
class ImageFile:
    """One image file of a training; equal to another of the same path."""

    path: Path
    source: ImageSource = field(compare=False, repr=False)

    def read_bytes(self) -> bytes:
        """Return the file's bytes. Raises OSError."""
        return self.source.read(self.path)

    def read_digest(self) -> str:
        """Return the SHA-256 of the bytes in hex. Raises BadImage."""
        with name_file(self.path):
            return self.source.read_facts(self.path).digest

    def read_header(self, *, max_pixels: int) -> ImageHeader:
        """Return the checked header. Raises BadImage."""
        with name_file(self.path):
            header = self.source.read_facts(self.path).header
            if header is None or header.num_pixels > max_pixels:
                return parse_header(self.read_bytes(), max_pixels=max_pixels)  # for its error
            return header

    def decode(self, rule: InputRecord, *, max_pixels: int) -> Image:
        """Decode the image with the service's decoder. Raises BadImage."""
        with name_file(self.path):
            return decode(self.read_bytes(), rule, max_pixels=max_pixels)


@contextmanager
def name_file(path: Path) -> Iterator[None]:
    """Translate errors of one image to BadImage, which names its file."""
    try:
        yield
    except ImageError as error:
        raise BadImage(path, str(error)) from error
    except OSError as error:
        raise BadImage(path, error.strerror or str(error)) from error


def open_files(paths: Iterable[Path], source: ImageSource) -> tuple[ImageFile, ...]:
    """Return the images of these paths; nothing is read yet."""
    return tuple(ImageFile(path, source) for path in paths)


def compute_facts(data: bytes) -> FileFacts:
    """Return the facts of a file's bytes."""
    try:
        header = parse_header(data, max_pixels=sys.maxsize)
    except ImageError:
        header = None
    return FileFacts(hashlib.sha256(data).hexdigest(), header)


def parse_header(data: bytes, *, max_pixels: int) -> ImageHeader:
    """Return the header of an image. Raises ImageError."""
    picture = open_image(data, max_pixels=max_pixels)
    return ImageHeader(picture.mode, picture.size)
