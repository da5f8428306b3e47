"""Response models, documented for OpenAPI; docs/service.md describes them."""

import base64
from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.imaging.heatmap import Heatmap
from app.inference.explain import Explanation, RecalledPatch
from app.inference.status import ProductStatus, Shadow
from app.inference.version import ThresholdFrom
from app.inspection.drift import DriftRule, Window
from app.inspection.pipeline import Inspection
from app.inspection.shadow import ShadowStats
from app.store.labels import Label, LabelDecision
from model.bundle import Manifest, PromiseRecord


class ResponseModel(BaseModel):
    """A part of a response; read from objects by attribute."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class ScaleResponse(ResponseModel):
    """One scale: its own score, and its share of the joint score."""

    stride: int
    score: float
    share: float


class ScaleShareResponse(ResponseModel):
    """A scale's share of the map at a region's peak; shares sum to 1."""

    stride: int
    share: float


class RecalledPatchResponse(ResponseModel):
    """A good patch that the memory recalled at a region's peak: its weight, and its picture in base64."""

    weight: float
    media_type: str = "image/jpeg"
    data: str

    @classmethod
    def from_patch(cls, patch: RecalledPatch) -> Self:
        """Return a patch for the wire."""
        return cls(weight=patch.weight, data=base64.b64encode(patch.jpeg).decode())


class ExplanationResponse(ResponseModel):
    """Why a region is anomalous: shares of the scales, and the patches expected there."""

    scales: tuple[ScaleShareResponse, ...]
    expected: tuple[RecalledPatchResponse, ...]

    @classmethod
    def from_explanation(cls, explanation: Explanation) -> Self:
        """Return an explanation for the wire."""
        return cls(
            scales=tuple(ScaleShareResponse.model_validate(scale) for scale in explanation.scales),
            expected=tuple(RecalledPatchResponse.from_patch(patch) for patch in explanation.expected),
        )


class RegionResponse(ResponseModel):
    """Where the map exceeds the pixel threshold, in pixels of the posted image, upright."""

    x: int
    y: int
    width: int
    height: int
    area_px: int
    peak: float
    explanation: ExplanationResponse | None = Field(default=None, description="present if explain=true")


class HeatmapResponse(ResponseModel):
    """The heat-map in base64; ``range``: the values of the first and the last colour."""

    media_type: str
    width: int
    height: int
    range: tuple[float, float]
    data: str

    @classmethod
    def from_heatmap(cls, heatmap: Heatmap) -> Self:
        """Return a heat-map for the wire."""
        return cls(
            media_type=heatmap.media_type,
            width=heatmap.width,
            height=heatmap.height,
            range=heatmap.range,
            data=base64.b64encode(heatmap.data).decode(),
        )


class ImageResponse(ResponseModel):
    """The posted image, upright."""

    width: int
    height: int
    sha256: str


class RegionOfInterestResponse(ResponseModel):
    """The share of the image that was inspected."""

    share: float


class TimingsResponse(ResponseModel):
    """Milliseconds by step, to the microsecond."""

    decode: float
    queue: float
    inference: float
    render: float


class InspectionResponse(ResponseModel):
    """One inspection of one part."""

    inspection_id: str
    request_id: str
    part_id: str | None
    product: str
    version: str
    verdict: Literal["ok", "ng"] = Field(description="ng where the score exceeds the threshold")
    score: float = Field(description="0 is the mean of good calibration parts, 1 their spread")
    threshold: float
    threshold_from: ThresholdFrom = Field(description="source of the threshold: calibration, or a chosen rate or value")
    p_value: float = Field(description="share of good parts with a score at least as high")
    promise: PromiseRecord = Field(description="the false-alarm rate that calibration supports")
    scales: tuple[ScaleResponse, ...]
    regions: tuple[RegionResponse, ...]
    heatmap: HeatmapResponse | None
    region_of_interest: RegionOfInterestResponse | None = Field(description="null where the whole image is inspected")
    image: ImageResponse
    warnings: tuple[str, ...] = ()
    timings_ms: TimingsResponse

    @classmethod
    def from_inspection(
        cls, inspection: Inspection, *, inspection_id: str, request_id: str, part_id: str | None
    ) -> Self:
        """Return an inspection for the wire."""
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
            scales=tuple(ScaleResponse.model_validate(scale) for scale in inspection.scales),
            regions=to_regions(inspection),
            heatmap=HeatmapResponse.from_heatmap(inspection.heatmap) if inspection.heatmap else None,
            region_of_interest=to_roi(inspection),
            image=ImageResponse.model_validate(inspection.image),
            warnings=collect_warnings(inspection),
            timings_ms=TimingsResponse.model_validate(inspection.timings),
        )


def to_file_result(inspection: Inspection, name: str) -> dict[str, object]:
    """Return an inspection as the commands print it: without ids of a request and without the heat-map."""
    answer = InspectionResponse.from_inspection(inspection, inspection_id="", request_id="", part_id=name)
    return answer.model_dump(mode="json", exclude={"inspection_id", "request_id", "heatmap"})


def to_regions(inspection: Inspection) -> tuple[RegionResponse, ...]:
    """Return the regions, each with its explanation if there is one."""
    regions = tuple(RegionResponse.model_validate(region) for region in inspection.regions)
    if not inspection.explanations:
        return regions
    return tuple(
        region.model_copy(update={"explanation": ExplanationResponse.from_explanation(explanation)})
        for region, explanation in zip(regions, inspection.explanations, strict=True)
    )


def collect_warnings(inspection: Inspection) -> tuple[str, ...]:
    """Return the warnings of the image, and one where an explanation has no pictures."""
    if inspection.explanations and inspection.version.patches is None:
        without = "this version keeps no pictures of good patches; train it again to show them"
        return (*inspection.warnings, without)
    return inspection.warnings


def to_roi(inspection: Inspection) -> RegionOfInterestResponse | None:
    """Return the version's region of interest, or None."""
    region = inspection.version.manifest.region
    return RegionOfInterestResponse(share=region.share) if region else None


class ProblemResponse(ResponseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


class BatchResponse(ResponseModel):
    """One item an image, in order: an inspection or a problem."""

    items: tuple[InspectionResponse | ProblemResponse, ...]


class OverrideResponse(ResponseModel):
    """A threshold that replaces the version's own: by a rate, or by a value for one version."""

    false_alarm_rate: float | None
    threshold: float | None
    version: str | None
    by: str
    why: str


class DriftResponse(ResponseModel):
    """Whether recent scores differ from those of the calibration parts, tested window by window."""

    drifted: bool | None = Field(description="result of the last full window; null before the first")
    distance: float | None = Field(description="distance between the two distributions of scores, 0 to 1")
    limit: float | None = Field(description="maximum distance explained by chance and the assumed defects")
    window: int = Field(description="number of scores in a window")
    seen: int = Field(description="number of scores in the current window")
    false_alarm_rate: float = Field(description="false-alarm rate per window without drift")
    assumed_defect_share: float = Field(description="share of defective parts that raises no alarm")

    @classmethod
    def from_window(cls, window: Window | None, rule: DriftRule) -> Self:
        """Return the drift of a product's scores."""
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


class ShadowStatsResponse(ResponseModel):
    """How many images a candidate inspected, and how many verdicts differ."""

    seen: int
    judged: int
    skipped: int = Field(description="skipped because live images were waiting")
    failed: int
    ng_by_candidate_only: int
    ng_by_serving_only: int
    disagreement_rate: float | None


class ShadowResponse(ResponseModel):
    """The candidate that runs in shadow; ``fault`` says why it does not."""

    version: str
    share: float
    fault: str | None
    tally: ShadowStatsResponse | None

    @classmethod
    def from_shadow(cls, shadow: Shadow, stats: ShadowStats | None) -> Self:
        """Return a candidate for the wire."""
        counted = ShadowStatsResponse.model_validate(stats) if stats else None
        return cls(version=shadow.version, share=shadow.share, fault=shadow.error, tally=counted)


class ProductResponse(ResponseModel):
    """The status of a product; ``fault`` says why the activated version does not serve."""

    product: str
    serving: str | None
    activated: str | None
    fault: str | None
    resting: bool = Field(description="evicted from memory; loaded again on the next request")
    threshold: float | None = Field(description="current threshold")
    threshold_from: ThresholdFrom | None
    promise: PromiseRecord | None
    override: OverrideResponse | None
    drift: DriftResponse
    shadow: ShadowResponse | None

    @classmethod
    def from_status(
        cls, status: ProductStatus, *, drift: Window | None, rule: DriftRule, stats: ShadowStats | None
    ) -> Self:
        """Return a product's status for the wire."""
        serving = status.serving
        return cls(
            product=status.product,
            serving=serving.name if serving else None,
            activated=status.activated,
            fault=status.error,
            resting=status.is_evicted,
            threshold=serving.threshold if serving else None,
            threshold_from=serving.threshold_from if serving else None,
            promise=serving.promise if serving else None,
            override=OverrideResponse.model_validate(status.override) if status.override else None,
            drift=DriftResponse.from_window(drift, rule),
            shadow=ShadowResponse.from_shadow(status.shadow, stats) if status.shadow else None,
        )


class ProductsResponse(ResponseModel):
    """Every product of the store, by name."""

    products: tuple[ProductResponse, ...]


class VersionResponse(ResponseModel):
    """A version in the store; ``fault`` says why its manifest can't be read."""

    version: str
    serving: bool
    created: datetime | None = None
    method: str | None = None
    teacher: str | None = None
    promise: PromiseRecord | None = None
    fault: str | None = None

    @classmethod
    def from_manifest(cls, version: str, manifest: Manifest, *, serving: bool) -> Self:
        """Return a manifest for the wire."""
        return cls(
            version=version,
            serving=serving,
            created=manifest.created,
            method=manifest.method,
            teacher=manifest.teacher.name,
            promise=manifest.promise,
        )


class VersionsResponse(ResponseModel):
    """A product's versions, oldest first."""

    product: str
    versions: tuple[VersionResponse, ...]


class ReadyProductResponse(ResponseModel):
    """Whether a product can be inspected."""

    product: str
    serving: str | None
    fault: str | None


class HealthResponse(ResponseModel):
    """Whether the service can inspect, and if not, why."""

    ready: bool
    reasons: tuple[str, ...]
    products: tuple[ReadyProductResponse, ...]


class FeedbackResponse(ResponseModel):
    """A labelled image: its label, and all of its labels, oldest first."""

    sha256: str
    label: Label
    history: tuple[LabelDecision, ...]
