"""Answers of the service, typed; members that a later service adds are in ``raw``."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self


@dataclass(frozen=True)
class Region:
    """Where a part is wrong, in pixels of the posted image, upright."""

    x: int
    y: int
    width: int
    height: int
    area_px: int
    peak: float


@dataclass(frozen=True)
class Heatmap:
    """A picture of how odd each place is; ``range``: what its first and last colour stand for."""

    media_type: str
    width: int
    height: int
    range: tuple[float, float]
    data: bytes


@dataclass(frozen=True)
class Inspection:
    """One judgement. ``score``: 0 is the mean of good parts, 1 their spread; above ``threshold`` the part is ng."""

    inspection_id: str
    part_id: str | None
    product: str
    version: str
    verdict: Literal["ok", "ng"]
    score: float
    threshold: float
    p_value: float
    regions: tuple[Region, ...]
    heatmap: Heatmap | None
    warnings: tuple[str, ...]
    raw: Mapping[str, Any]

    @property
    def is_ok(self) -> bool:
        """Whether the part is good."""
        return self.verdict == "ok"

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Self:
        """The inspection of a JSON answer."""
        drawn = answer.get("heatmap")
        regions = tuple(
            Region(**{name: region[name] for name in Region.__dataclass_fields__}) for region in answer["regions"]
        )
        return cls(
            **{name: answer[name] for name in PLAIN},
            regions=regions,
            heatmap=parse_heatmap(drawn) if drawn else None,
            warnings=tuple(answer["warnings"]),
            raw=answer,
        )


PLAIN = ("inspection_id", "part_id", "product", "version", "verdict", "score", "threshold", "p_value")


def parse_heatmap(drawn: Mapping[str, Any]) -> Heatmap:
    """Return a heat-map, its picture decoded."""
    low, high = drawn["range"]
    return Heatmap(drawn["media_type"], drawn["width"], drawn["height"], (low, high), base64.b64decode(drawn["data"]))
