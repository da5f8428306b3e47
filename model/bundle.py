"""The bundle: one version of one product, as files; the interface of trainer and service.

This module imports neither torch nor onnxruntime. Format 1 stays readable; a new format gets a new number.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

FORMAT = 2
MANIFEST = "manifest.json"
STUDENT = "student.onnx"
COMPARE = "compare.onnx"
CALIBRATION = "calibration.npz"
METRICS = "metrics.json"
REPORT = "report.html"
GOLDEN = "golden"
REGION: Final = "region.png"
PATCHES = "patches.npz"
MeasureName = Literal["width_px", "height_px", "brightness", "contrast", "sharpness"]
MEASURES: Final[tuple[MeasureName, ...]] = get_args(MeasureName)
REQUIRED_FILES = (STUDENT, COMPARE, CALIBRATION)

NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,63}"
VERSION_PATTERN = r"\d{8}t\d{6}z-[0-9a-f]{8}"
SHA256_PATTERN = r"[0-9a-f]{64}"
FILE_PATTERN = r"([a-z0-9_]+/)?[a-z0-9_]+\.[a-z0-9]+"

Sha256 = Annotated[str, StringConstraints(pattern=f"^{SHA256_PATTERN}$")]
BundlePath = Annotated[str, StringConstraints(pattern=f"^{FILE_PATTERN}$")]


class GoodpartError(Exception):
    """Root of every error that Goodpart raises on purpose; the message is one line.

    ``kind`` is the stable name of what is wrong: that of the class, or of this error alone. ``app.api.problems`` maps
    it to an HTTP status; there it is the end of the problem's type.

    GoodpartError
    ├── BadName             an invalid product or version name
    ├── BundleError         a version that must not be loaded
    ├── app.errors          images, models, settings and commands
    ├── app.store.errors    products, versions and storage
    ├── app.api.problems    requests
    └── training.errors     data and settings of a training
    """

    kind = "failed"

    def __init__(self, message: str, *, kind: str | None = None) -> None:
        super().__init__(message)
        if kind is not None:
            self.kind = kind


class BadName(GoodpartError):
    """An invalid product or version name; the check also keeps paths inside the store."""

    kind = "bad-name"

    def __init__(self, what: str, name: str, pattern: str) -> None:
        super().__init__(f"{what} {name[:80]!r} is not a valid name: it must match {pattern}")


class BundleError(GoodpartError):
    """A version that must not be loaded: a file of it is invalid, or differs from what was published."""

    kind = "bad-bundle"


def digest_error(file: str, *, expected: str, found: str) -> BundleError:
    """Return the error of bytes that differ from those published."""
    return BundleError(f"{file} has been changed: its SHA-256 is {found[:16]}..., not {expected[:16]}...")


class Record(BaseModel):
    """A frozen part of the manifest; unknown members are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(Record):
    """Digest and size of a file of the bundle."""

    sha256: Sha256
    size_bytes: int = Field(ge=0)


class InputRecord(Record):
    """How an image becomes the teacher's input."""

    height: int = Field(ge=32, le=4096)
    width: int = Field(ge=32, le=4096)
    fit: Literal["stretch", "letterbox"]
    channels: Literal["grey", "rgb"]
    white_level: int = Field(ge=1, le=65535)


class ScaleRecord(Record):
    """One map of the comparison: its stride in input pixels, its weight in the score, and where it comes from.

    ``recall``: the teacher against what the recall memory returned; ``student``: against what a module extracted.
    """

    stride: int = Field(ge=1)
    weight: float = Field(ge=0)
    source: Literal["recall", "student"] = "student"


class AffineRecord(Record):
    """Raw values to Goodpart's scale: ``(raw - mean) / spread``."""

    mean: float
    spread: float = Field(gt=0)

    def standardise(self, raw: float) -> float:
        """Return a raw value on the absolute scale: 0 is the mean of good parts, 1 their spread."""
        return (raw - self.mean) / self.spread


class PromiseRecord(Record):
    """The requested false-alarm rate, the one that calibration supports, and its threshold."""

    asked: float = Field(gt=0, lt=1)
    supported: float = Field(gt=0, le=1)
    num_calibration: int = Field(ge=1)
    threshold: float


class RegionRecord(Record):
    """Which part of an image is inspected: a file of the bundle, white where it counts, and the share that is white."""

    file: Literal["region.png"]
    share: float = Field(gt=0, le=1)
    is_blanked: bool = False


class RangeRecord(Record):
    """From ``low`` to ``high``, both included."""

    low: float
    high: float


class ExpectsRecord(Record):
    """The input ranges: size in pixels as posted, then grey levels (0 to 255) at the model's size."""

    width_px: RangeRecord
    height_px: RangeRecord
    brightness: RangeRecord
    contrast: RangeRecord
    sharpness: RangeRecord


class TeacherRecord(Record):
    """The shared teacher graph that this version needs."""

    name: str
    sha256: Sha256
    size_bytes: int = Field(ge=1)
    licence: str
    strides: tuple[int, ...] | None = None


class Manifest(Record):
    """``manifest.json``: everything that a service needs to know before it loads the version."""

    format: Literal[1, 2]
    product: Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$")]
    created: datetime
    method: Literal["full", "quick"]
    input: InputRecord
    region: RegionRecord | None = None
    expects: ExpectsRecord | None = None
    teacher: TeacherRecord
    scales: tuple[ScaleRecord, ...] = Field(min_length=1)
    map_size: tuple[int, int]
    top_share: float = Field(gt=0, le=1)
    score: AffineRecord
    map: AffineRecord
    pixel_threshold: float | None = None
    promise: PromiseRecord
    golden_tolerance: Mapping[Literal["float32", "float16"], float]
    fingerprint: str
    tools: Mapping[str, str]
    files: Mapping[BundlePath, FileRecord]

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of the comparison's maps, each once, in their order."""
        return tuple(dict.fromkeys(scale.stride for scale in self.scales))

    @property
    def num_features(self) -> int:
        """The number of scales that the teacher extracts; a quick version uses some in the memory's query alone."""
        return len(self.teacher.strides or self.scales)


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of these bytes in hex."""
    return hashlib.sha256(data).hexdigest()


def check_product(name: str) -> str:
    """Return the name. Raises BadName."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise BadName("product", name, NAME_PATTERN)
    return name


def check_version(name: str) -> str:
    """Return the name. Raises BadName."""
    if not re.fullmatch(VERSION_PATTERN, name):
        raise BadName("version", name, VERSION_PATTERN)
    return name


def make_file_records(files: Mapping[str, bytes]) -> dict[str, FileRecord]:
    """Return the records of a bundle's files by their path in it."""
    return {path: FileRecord(sha256=sha256_hex(data), size_bytes=len(data)) for path, data in files.items()}


def read_manifest(data: bytes) -> Manifest:
    """Parse a manifest. Raises BundleError with the first error."""
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise BundleError(f"{MANIFEST} can't be read: {where}: {first['msg']}") from None
    for path in REQUIRED_FILES:
        if path not in manifest.files:
            raise BundleError(f"{MANIFEST} lists no {path}")
    if manifest.region is not None and manifest.region.file not in manifest.files:
        raise BundleError(f"{MANIFEST} lists no {manifest.region.file}")
    return manifest


def compute_version_name(manifest: bytes) -> str:
    """``20261123t140509z-3fa9c1d2``: the UTC time of making, then 8 hex digits over the sorted file digests.

    The manifest's own digest is among them, so that a version's name also vouches for its threshold.
    Raises BundleError.
    """
    content = read_manifest(manifest)
    digests = {path: record.sha256 for path, record in content.files.items()}
    digests[MANIFEST] = sha256_hex(manifest)
    lines = "\n".join(f"{digests[path]}  {path}" for path in sorted(digests))
    return f"{content.created:%Y%m%dt%H%M%Sz}-{sha256_hex(lines.encode())[:8]}"


def check_digest(path: str, data: bytes, expected: str) -> bytes:
    """Return the bytes. Raises BundleError."""
    found = sha256_hex(data)
    if found != expected:
        raise digest_error(path, expected=expected, found=found)
    return data
