"""The settings of a training: one frozen object, from YAML, variables and flags."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticUndefined

from app.errors import SettingsError
from app.validation import describe_error, suggest_name
from model.bundle import InputRecord
from model.teacher_specs import get_teacher_spec

# Input height or width in pixels.
InputSide = Annotated[int, Field(ge=64, le=1024, multiple_of=32)]
# Input height and width where the images are at least that large.
LARGE_SIDE = 320
# Widths of the student's modules by stride.
HIDDEN_CHANNELS = {4: 32, 8: 48, 16: 112, 32: 192}
# Top shares of the score, as multiples of the largest: from single positions to large areas.
TOP_SHARE_STEPS = (0.03, 0.3, 1.0)
# Settings of earlier versions that have no effect any more. They are accepted and ignored.
RETIRED = frozenset({"later_score_weight", "learning.usual_weight"})
# Names of earlier versions, which are still accepted, and the last part of the present name.
RENAMED = {"learning.least_gain": "min_delta", "learning.look_interval": "eval_interval"}

# What a preset changes of the defaults; single settings take precedence.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": {"quick": True},
    "best": {"teacher": "efficientnet_lite2", "num_recall_items": 8000, "num_candidates": 120_000},
}


class MemorySettings(BaseModel):
    """How the filled memory is trained: ``normality_weight L_NM + orthogonality_weight L_orth``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_steps: int = Field(
        default=0, ge=0, description="Number of training batches of the memory; 0 leaves it as filled."
    )
    batch_size: int = Field(default=8, ge=1, description="Images per batch.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Learning rate of the memory's keys and values.")
    query_learning_rate: float = Field(default=1e-3, gt=0, description="Learning rate of the query module.")
    learn_values: bool = Field(default=True, description="Whether gradients reach the memory's values.")
    normality_weight: float = Field(default=1.0, ge=0, description="Weight of L_NM.")
    orthogonality_weight: float = Field(default=0.1, ge=0, description="Weight of L_orth.")
    num_orthogonal_keys: int = Field(default=512, ge=2, description="Keys drawn for L_orth at each step.")


class LearningSettings(BaseModel):
    """How the student is trained to extract from its memory: ``L_KD``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_steps: int | None = Field(
        default=None, ge=1, description="Number of training batches; default: by the number of images."
    )
    batch_size: int = Field(default=16, ge=2, description="Images per batch.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Maximum learning rate of the student's layers.")
    weight_decay: float = Field(default=1e-4, ge=0, description="Weight decay of the layers.")
    hardness: float = Field(
        default=0.0, ge=0, description="Weight of badly reconstructed positions in the loss; 0 is the plain mean."
    )
    eval_interval: int = Field(
        default=50, ge=1, description="Steps between evaluations of the loss on held-out good parts."
    )
    patience: int = Field(
        default=0, ge=0, description="Evaluations without an improvement before early stopping; 0 disables it."
    )
    min_delta: float = Field(
        default=0.002,
        ge=0,
        lt=1,
        description="Minimum relative decrease of the held-out loss that counts as an improvement.",
    )
    mixed_precision: bool = Field(default=True, description="Whether CUDA uses mixed precision.")


class GateSettings(BaseModel):
    """The conditions of the release gate (``training/release/gate.py``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    significance: float = Field(
        default=0.001, gt=0, lt=1, description="Probability that a check of shares fails although nothing is wrong."
    )
    synthetic_margin: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of synthetic defects that may be missed in addition to the old version's.",
    )


class Rectangle(BaseModel):
    """A part of the image in shares of its width and height; ``x``, ``y`` is the upper left corner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: float = Field(ge=0, le=1)
    y: float = Field(ge=0, le=1)
    width: float = Field(gt=0, le=1)
    height: float = Field(gt=0, le=1)


class TrainSettings(BaseModel):
    """The settings of a training; ``strides`` names the first scale first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["default", "fast", "best"] = Field(
        default="default",
        description="'fast' runs no gradient steps; 'best' is slower; explicit settings override the preset.",
    )
    teacher: str = Field(default="efficientnet_lite0", description="Name of the teacher in the registry.")
    teacher_weights: str | None = Field(
        default=None, description="Checkpoint as a file or https URL; required if no package contains it."
    )
    teacher_sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 that the checkpoint must have."
    )
    strides: tuple[int, ...] = Field(
        default=(16, 32, 8),
        min_length=1,
        description="Scales by their stride in input pixels; the first is the memory's.",
    )
    taps: dict[int, int] = Field(
        default={}, description="Block or layer to tap at a stride, instead of the teacher's default."
    )
    height: InputSide = Field(
        default=256, description="Input height in pixels; unless set, 320 where good images are at least that large."
    )
    width: InputSide = Field(
        default=256, description="Input width in pixels; unless set, 320 where good images are at least that large."
    )
    fit: Literal["stretch", "letterbox"] = Field(
        default="stretch", description="Whether images are stretched or padded to the input size."
    )
    white_level: int = Field(
        default=255, ge=1, le=65535, description="Brightest value: 255, or 4095 for 12 bits in 16."
    )
    allow_odd_sizes: bool = Field(
        default=False, description="Whether a few images may have another size than the rest."
    )
    inspect: tuple[Rectangle, ...] = Field(
        default=(), description="Rectangles to inspect, in shares of the image; default: the whole image."
    )
    ignore: tuple[Rectangle, ...] = Field(default=(), description="Rectangles to ignore, in shares of the image.")
    num_recall_items: int = Field(default=4000, ge=1, description="Key-value pairs of the recall memory.")
    num_candidates: int = Field(
        default=60_000, ge=1, description="Number of candidate positions for the items of the memory."
    )
    num_read_items: int = Field(default=4, ge=1, description="Number of nearest items that a position recalls.")
    query_channels: int = Field(default=128, ge=1, description="Channels of the recall memory's query and keys.")
    bottleneck_channels: int = Field(default=192, ge=8, description="Channels of the one-class bottleneck.")
    num_adaptive_items: int = Field(default=24, ge=1, description="Items of each adaptive memory.")
    temperature: float = Field(default=0.003, gt=0, description="Temperature of recall, in units of cosine similarity.")
    regularisation: float = Field(
        default=2.0,
        ge=0,
        description="Square of the constant channel, in mean squared norms of a feature.",
    )
    map_stride: int = Field(default=4, ge=1, description="Input pixels per position of the anomaly map.")
    smoothing_sigma: float = Field(default=1.0, gt=0, description="Map smoothing, in map positions.")
    top_share: float = Field(
        default=0.1, gt=0, le=1, description="Largest share of the highest positions whose mean enters the score."
    )
    false_alarm_rate: float = Field(default=0.01, gt=0, lt=1, description="Maximum share of good parts judged ng.")
    quick: bool = Field(default=False, description="Fill the memory and calibrate only, without gradient steps.")
    memory: MemorySettings = Field(default=MemorySettings(), description="Training of the memory.")
    learning: LearningSettings = Field(default=LearningSettings(), description="Training of the student.")
    gate: GateSettings = Field(default=GateSettings(), description="Conditions of the release gate.")
    seed: int = Field(default=0, ge=0, description="Seed of every random choice.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Device of the training; 'auto' uses CUDA if available."
    )
    max_pixels: int = Field(default=50_000_000, ge=1024, description="Maximum number of pixels of an image.")
    feature_memory_gib: float = Field(
        default=4.0, ge=0, description="Maximum size of features in memory, in GiB; more are stored on disk as float16."
    )
    num_workers: int | None = Field(
        default=None, ge=1, le=256, description="Number of decoding threads; default: one per processor."
    )
    data_licence: str | None = Field(default=None, description="Licence of the images, for the report.")
    tracking: Literal["none", "mlflow"] = Field(
        default="none", description="Experiment tracking of curves and metrics; 'mlflow' requires goodpart[mlflow]."
    )
    mlflow_uri: str | None = Field(default=None, description="MLflow tracking URI; default: a file in the store.")
    checkpoint_interval_s: float = Field(default=60.0, ge=0, description="Seconds between checkpoints.")

    @model_validator(mode="before")
    @classmethod
    def _update_names(cls, given: Any) -> Any:  # noqa: ANN401  # whatever is to be validated
        return update_names(given) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _fits_the_teacher(self) -> Self:
        spec = get_teacher_spec(self.teacher)  # raises ValueError, which pydantic reports
        for stride in self.strides:
            if stride not in spec.taps:
                message = f"{self.teacher} has no tap at stride {stride}; it has {sorted(spec.taps)}"
                raise ValueError(message)
        if self.map_stride > min(self.height, self.width) // 8:
            message = "map_stride: the map would have fewer than 8 x 8 positions"
            raise ValueError(message)
        if len(set(self.strides)) != len(self.strides):
            message = "a stride is named twice"
            raise ValueError(message)
        return self

    def input_record(self, *, channels: Literal["grey", "rgb"]) -> InputRecord:
        """How images become the teacher's input, for the manifest."""
        return InputRecord(
            height=self.height,
            width=self.width,
            fit=self.fit,
            channels=channels,
            white_level=self.white_level,
        )

    def to_report(self) -> dict[str, Any]:
        """Return the settings for reports, without credentials in URLs."""
        secretive = {"teacher_weights": self.teacher_weights, "mlflow_uri": self.mlflow_uri}
        return {**self.model_dump(mode="json"), **{name: redact_url(one) for name, one in secretive.items()}}

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the anomaly map in positions."""
        return self.height // self.map_stride, self.width // self.map_stride

    def fit_to_images(self, size: tuple[int, int]) -> Self:
        """Return the settings for images of this width and height.

        Small defects need resolution, but an image that is enlarged has nothing to show (decision 014). A size that was
        set is kept, and so is that of quick trainings, which are to be fast.
        """
        is_set = bool({"height", "width"} & self.model_fields_set)
        if is_set or self.quick or min(size) < LARGE_SIDE:
            return self
        return self.model_copy(update={"height": LARGE_SIDE, "width": LARGE_SIDE})

    @property
    def num_stored(self) -> int:
        """The number of scales, from the first on, that the recall memory stores: those no finer than the first."""
        return next((k for k, stride in enumerate(self.strides) if stride < self.strides[0]), len(self.strides))

    @property
    def num_recalled(self) -> int:
        """The number of scales that the student reconstructs from the memory alone."""
        return self.num_stored if self.quick else len(self.strides)

    @property
    def num_extracted(self) -> int:
        """The number of scales that the student's modules extract: none without gradient steps."""
        return 0 if self.quick else len(self.strides)

    @property
    def top_shares(self) -> tuple[float, ...]:
        """Shares of the highest positions whose means make the score, in ascending order."""
        return tuple(step * self.top_share for step in TOP_SHARE_STEPS)

    @property
    def hidden_channels(self) -> tuple[int, ...]:
        """The student's widths, scale by scale."""
        return tuple(HIDDEN_CHANNELS[stride] for stride in self.strides)


def read_train_settings(
    config: Path | None,
    assignments: Iterable[str] = (),
    *,
    quick: bool | None = None,
    variables: Mapping[str, str] | None = None,
) -> TrainSettings:
    """Settings from a YAML file, overlaid by variables, overlaid by ``name=value``. Raises SettingsError in one line.

    ``variables``: by what follows ``GOODPART_TRAIN_``, in lower case; two underscores lead into nested settings.
    """
    # Not by the sources of pydantic-settings: those pass over a missing file and unknown variables, take lists in
    # variables as JSON alone, and would mix variables into the settings of a version that is read back.
    given = read_yaml(config)
    for name, value in (variables or {}).items():
        assign(given, f"{name.replace('__', '.')}={value}")
    for assignment in assignments:
        assign(given, assignment)
    if quick is not None:
        given["quick"] = quick
    return parse_settings(given)


def parse_settings(given: Mapping[str, Any]) -> TrainSettings:
    """Validate nested names and values; missing ones are the preset's, or the default. Raises SettingsError."""
    preset = PRESETS.get(str(given.get("preset")), {})
    try:
        return TrainSettings.model_validate({**preset, **given})
    except ValidationError as error:
        raise SettingsError(summarise_error(error)) from None


def update_names(given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by their present names, without those that have no effect any more.

    Where both names are given, the later one counts: layers that go before others are merged after them.
    """
    return {
        RENAMED.get(f"{prefix}{name}", name): (
            update_names(value, f"{prefix}{name}.") if isinstance(value, Mapping) else value
        )
        for name, value in given.items()
        if f"{prefix}{name}" not in RETIRED
    }


def summarise_error(error: ValidationError) -> str:
    """Return the first error, with the nearest known name for an unknown one."""
    first = error.errors()[0]
    if first["type"] != "extra_forbidden":
        return describe_error(error)
    name = ".".join(map(str, first["loc"]))
    return f"unknown setting '{name}'{suggest_name(name, (setting.name for setting in list_settings()))}"


@dataclass(frozen=True)
class SettingInfo:
    """One setting: its dotted name, its default and its description."""

    name: str
    default: object
    description: str


def list_settings(kind: type[BaseModel] = TrainSettings, prefix: str = "") -> Iterator[SettingInfo]:
    """Yield every setting, nested ones by their dotted names."""
    for name, field in kind.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from list_settings(nested, f"{prefix}{name}.")
        else:
            default = "as the machine has it" if field.default is PydanticUndefined else field.default
            yield SettingInfo(f"{prefix}{name}", default, field.description or "")


def assign(settings: dict[str, Any], assignment: str) -> None:
    """Set ``learning.num_steps=500`` in nested settings; the value is parsed as YAML. Raises SettingsError."""
    name, equals, value = assignment.partition("=")
    if not equals or not name:
        raise SettingsError(f"'{assignment}' is not of the form NAME=VALUE")
    *outer, last = name.split(".")
    for step in outer:
        settings = settings.setdefault(step, {})
        if not isinstance(settings, dict):
            raise SettingsError(f"{name}: '{step}' is a value, not a group of settings")
    try:
        settings[RENAMED.get(name, last)] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"{name}: {value!r} is not a valid value") from error


def read_yaml(config: Path | None) -> dict[str, Any]:
    """Return the mapping in a YAML file, empty without a file. Raises SettingsError."""
    if config is None:
        return {}
    try:
        content = yaml.safe_load(config.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{config}: {str(error).splitlines()[0]}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{config}: settings are 'name: value' lines")
    return content


def redact_url(address: str | None) -> str | None:
    """Return a URL without user, password and query; other text is unchanged."""
    if address is None or "://" not in address:
        return address
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
