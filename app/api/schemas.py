"""What the service answers: the members of DESIGN section 5, documented for OpenAPI."""

import base64
from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.imaging.heatmap import Heatmap
from app.inference.explain import Expected, Explanation
from app.inference.registry import Shadow, Standing
from app.inference.version import ThresholdFrom
from app.inspection.drift import DriftRule, Window
from app.inspection.pipeline import Inspection
from app.inspection.shadow import Tally
from app.store.labels import Confirmation, Label
from model.bundle import Manifest, PromiseRecord


class Answer(BaseModel):
    """A part of an answer; read from the engine's objects by attribute."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class ScaleAnswer(Answer):
    """One scale: its own score, and the share it put into the joint score."""

    stride: int
    score: float
    share: float


class ScaleShareAnswer(Answer):
    """What a scale put into the map at a region's peak, as a share of 1."""

    stride: int
    share: float


class ExpectedAnswer(Answer):
    """A good patch that the memory recalled at a region's peak: how much it weighed, and its picture, base64."""

    weight: float
    media_type: str = "image/jpeg"
    data: str

    @classmethod
    def of(cls, expected: Expected) -> Self:
        """A patch for the wire."""
        return cls(weight=expected.weight, data=base64.b64encode(expected.jpeg).decode())


class ExplanationAnswer(Answer):
    """Why a region is wrong: by scale, and what was expected there instead."""

    scales: tuple[ScaleShareAnswer, ...]
    expected: tuple[ExpectedAnswer, ...]

    @classmethod
    def of(cls, explanation: Explanation) -> Self:
        """An explanation for the wire."""
        return cls(
            scales=tuple(ScaleShareAnswer.model_validate(scale) for scale in explanation.scales),
            expected=tuple(ExpectedAnswer.of(patch) for patch in explanation.expected),
        )


class RegionAnswer(Answer):
    """Where the map exceeds the pixel threshold, in pixels of the posted image, upright."""

    x: int
    y: int
    width: int
    height: int
    area_px: int
    peak: float
    explanation: ExplanationAnswer | None = Field(default=None, description="where explain=true asked for it")


class HeatmapAnswer(Answer):
    """The heat-map, base64; ``range`` is what its first and last colour stand for."""

    media_type: str
    width: int
    height: int
    range: tuple[float, float]
    data: str

    @classmethod
    def of(cls, heatmap: Heatmap) -> Self:
        """A rendered heat-map for the wire."""
        return cls(
            media_type=heatmap.media_type,
            width=heatmap.width,
            height=heatmap.height,
            range=heatmap.range,
            data=base64.b64encode(heatmap.data).decode(),
        )


class ImageAnswer(Answer):
    """The posted image, upright."""

    width: int
    height: int
    sha256: str


class RegionOfInterestAnswer(Answer):
    """Which share of the image was inspected; the rest counts nowhere."""

    share: float


class TimingsAnswer(Answer):
    """Milliseconds by step, to the microsecond."""

    decode: float
    queue: float
    inference: float
    render: float


class InspectionAnswer(Answer):
    """One judgement of one part."""

    inspection_id: str
    request_id: str
    part_id: str | None
    product: str
    version: str
    verdict: Literal["ok", "ng"] = Field(description="ng where the score exceeds the threshold")
    score: float = Field(description="0 is the mean of good calibration parts, 1 their spread")
    threshold: float
    threshold_from: ThresholdFrom = Field(description="calibration, or a rate or value that people chose since")
    p_value: float = Field(description="how ordinary the score is among good parts")
    promise: PromiseRecord = Field(description="the false-alarm rate that calibration supports")
    scales: tuple[ScaleAnswer, ...]
    regions: tuple[RegionAnswer, ...]
    heatmap: HeatmapAnswer | None
    region_of_interest: RegionOfInterestAnswer | None = Field(description="null where the whole image is inspected")
    image: ImageAnswer
    warnings: tuple[str, ...] = ()
    timings_ms: TimingsAnswer

    @classmethod
    def of(cls, inspection: Inspection, *, inspection_id: str, request_id: str, part_id: str | None) -> Self:
        """The engine's inspection for the wire."""
        return cls(
            inspection_id=inspection_id,
            request_id=request_id,
            part_id=part_id,
            product=inspection.version.product,
            version=inspection.version.name,
            verdict=inspection.verdict,
            score=inspection.score,
            threshold=inspection.threshold,
            threshold_from=inspection.version.threshold_from,
            p_value=inspection.p_value,
            promise=inspection.promise,
            scales=tuple(ScaleAnswer.model_validate(scale) for scale in inspection.scales),
            regions=regions_of(inspection),
            heatmap=HeatmapAnswer.of(inspection.heatmap) if inspection.heatmap else None,
            region_of_interest=interest_of(inspection),
            image=ImageAnswer.model_validate(inspection.image),
            warnings=warnings_of(inspection),
            timings_ms=TimingsAnswer.model_validate(inspection.timings),
        )


def told_of_file(inspection: Inspection, name: str) -> dict[str, object]:
    """What a command says of a file: the answer without what only a request has, and without its picture."""
    answer = InspectionAnswer.of(inspection, inspection_id="", request_id="", part_id=name)
    return answer.model_dump(mode="json", exclude={"inspection_id", "request_id", "heatmap"})


def regions_of(inspection: Inspection) -> tuple[RegionAnswer, ...]:
    """The regions, each with its explanation where there is one."""
    regions = tuple(RegionAnswer.model_validate(region) for region in inspection.regions)
    if not inspection.explanations:
        return regions
    return tuple(
        region.model_copy(update={"explanation": ExplanationAnswer.of(explanation)})
        for region, explanation in zip(regions, inspection.explanations, strict=True)
    )


def warnings_of(inspection: Inspection) -> tuple[str, ...]:
    """What the asker should know: of the image, or of an explanation without pictures."""
    if inspection.explanations and inspection.version.patches is None:
        without = "this version keeps no pictures of good patches; train it anew to see what was expected"
        return (*inspection.warnings, without)
    return inspection.warnings


def interest_of(inspection: Inspection) -> RegionOfInterestAnswer | None:
    """What the version's region of interest is, if it has one."""
    region = inspection.version.manifest.region
    return RegionOfInterestAnswer(share=region.share) if region else None


class ProblemAnswer(Answer):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


class BatchAnswer(Answer):
    """One item an image, in order: an inspection or a problem."""

    items: tuple[InspectionAnswer | ProblemAnswer, ...]


class OverrideAnswer(Answer):
    """A threshold that people chose instead of the version's own: by a rate, or by a value for one version."""

    false_alarm_rate: float | None
    threshold: float | None
    version: str | None
    by: str
    why: str


class DriftAnswer(Answer):
    """Whether scores of late look like those of the calibration parts, by one full window after the other."""

    drifted: bool | None = Field(description="of the last full window; null before the first")
    distance: float | None = Field(description="between the two distributions of scores, 0 to 1")
    limit: float | None = Field(description="the distance that chance and the assumed defects explain")
    window: int = Field(description="scores in a window")
    seen: int = Field(description="scores in the window that is filling")
    false_alarm_rate: float = Field(description="of this alarm, for each window of parts that have not drifted")
    assumed_defect_share: float = Field(description="share of defective parts that raises no alarm")

    @classmethod
    def of(cls, window: Window | None, rule: DriftRule) -> Self:
        """What is known of a product's scores."""
        last = window.last if window else None
        return cls(
            drifted=last.has_drifted if last else None,
            distance=last.distance if last else None,
            limit=last.limit if last else None,
            window=rule.window,
            seen=len(window.scores) if window else 0,
            false_alarm_rate=rule.false_alarm_rate,
            assumed_defect_share=rule.defect_share,
        )


class TallyAnswer(Answer):
    """What a candidate said so far: of the images it saw, how many it judged, and how many otherwise."""

    seen: int
    judged: int
    skipped: int = Field(description="due, but live images waited")
    failed: int
    ng_by_candidate_only: int
    ng_by_serving_only: int
    disagreement_rate: float | None


class ShadowAnswer(Answer):
    """The candidate that judges beside the serving version; ``fault`` says why it does not."""

    version: str
    share: float
    fault: str | None
    tally: TallyAnswer | None

    @classmethod
    def of(cls, shadow: Shadow, tally: Tally | None) -> Self:
        """A candidate for the wire."""
        counted = TallyAnswer.model_validate(tally) if tally else None
        return cls(version=shadow.version, share=shadow.share, fault=shadow.fault, tally=counted)


class ProductAnswer(Answer):
    """How a product stands; ``fault`` says why the activated version does not serve."""

    product: str
    serving: str | None
    activated: str | None
    fault: str | None
    resting: bool = Field(description="unloaded for want of room; loaded again when it is asked for")
    threshold: float | None = Field(description="that holds now")
    threshold_from: ThresholdFrom | None
    promise: PromiseRecord | None
    override: OverrideAnswer | None
    drift: DriftAnswer
    shadow: ShadowAnswer | None

    @classmethod
    def of(cls, standing: Standing, *, drift: Window | None, rule: DriftRule, tally: Tally | None) -> Self:
        """The catalogue's standing for the wire."""
        serving = standing.serving
        return cls(
            product=standing.product,
            serving=serving.name if serving else None,
            activated=standing.activated,
            fault=standing.fault,
            resting=standing.is_resting,
            threshold=serving.threshold if serving else None,
            threshold_from=serving.threshold_from if serving else None,
            promise=serving.promise if serving else None,
            override=OverrideAnswer.model_validate(standing.override) if standing.override else None,
            drift=DriftAnswer.of(drift, rule),
            shadow=ShadowAnswer.of(standing.shadow, tally) if standing.shadow else None,
        )


class ProductsAnswer(Answer):
    """Every product of the store, by name."""

    products: tuple[ProductAnswer, ...]


class VersionAnswer(Answer):
    """A version in the store; ``fault`` says why its manifest can't be read."""

    version: str
    serving: bool
    created: datetime | None = None
    method: str | None = None
    teacher: str | None = None
    promise: PromiseRecord | None = None
    fault: str | None = None

    @classmethod
    def of(cls, version: str, manifest: Manifest, *, serving: bool) -> Self:
        """A manifest for the wire."""
        return cls(
            version=version,
            serving=serving,
            created=manifest.created,
            method=manifest.method,
            teacher=manifest.teacher.name,
            promise=manifest.promise,
        )


class VersionsAnswer(Answer):
    """A product's versions, oldest first."""

    product: str
    versions: tuple[VersionAnswer, ...]


class ReadyProductAnswer(Answer):
    """Whether a product can be judged."""

    product: str
    serving: str | None
    fault: str | None


class HealthAnswer(Answer):
    """Whether the service can judge, and if not, why."""

    ready: bool
    reasons: tuple[str, ...]
    products: tuple[ReadyProductAnswer, ...]


class FeedbackAnswer(Answer):
    """An image as it is kept now: its label, and every label that it was given, oldest first."""

    sha256: str
    label: Label
    history: tuple[Confirmation, ...]
