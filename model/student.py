"""The student: one extraction module a scale, each with a memory; rebuilds the teacher's features from good parts.

Nothing of the image reaches the student's features but through the recall memory (claim 3): the query asks, and
what good parts had there is decoded, first at its own scale, then scale by scale (claims 1, 2).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from model.adaptive import AdaptiveMemory
from model.fusion import QueryFusion, resized
from model.recall import RecallMemory
from model.standardise import Standardiser


@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """What fixes a student's shape. ``channels`` and ``hidden_channels`` name one number a scale, the first first."""

    channels: tuple[int, ...]
    hidden_channels: tuple[int, ...]
    num_recall_items: int
    num_adaptive_items: int
    temperature: float
    regularisation: float


@dataclass(frozen=True)
class Extraction:
    """One pass through the student, in standard space: what was asked, recalled, and extracted at each scale."""

    query: Tensor
    recalled: Tensor
    features: tuple[Tensor, ...]


def convolution(num_in: int, num_out: int) -> nn.Sequential:
    """A 3 x 3 convolution, normalised over the batch, rectified."""
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(num_out),
        nn.ReLU(),
    )


class FirstModule(nn.Module):
    """Extracts the first scale's features from what was recalled.

    Starts as the recalled features themselves: its correction ends in a layer of zeros.
    """

    def __init__(self, *, num_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(num_channels, hidden_channels), convolution(hidden_channels, hidden_channels)
        )
        self.correction = nn.Conv2d(hidden_channels, num_channels, kernel_size=1)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)  # type: ignore[arg-type]  # a Conv2d made with its bias has one

    def forward(
        self, recalled: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch hidden height width"], Float[Tensor, "batch channels height width"]]:
        """The hidden feature that the later scales decode, and the first scale's feature."""
        hidden = self.body(recalled)
        return hidden, recalled + self.correction(hidden)


class LaterModule(nn.Module):
    """Extracts a later scale's features from the scale before and its adaptive memory."""

    def __init__(self, *, num_in: int, num_channels: int, hidden_channels: int, num_items: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(num_in, hidden_channels, kernel_size=1)
        self.initial = convolution(hidden_channels, hidden_channels)
        self.memory = AdaptiveMemory(num_items=num_items, num_channels=hidden_channels)
        self.merge = convolution(2 * hidden_channels, hidden_channels)
        self.extract = nn.Conv2d(hidden_channels, num_channels, kernel_size=1)

    def forward(
        self, hidden: Float[Tensor, "batch hidden_before _ _"], size: tuple[int, int]
    ) -> tuple[Float[Tensor, "batch hidden height width"], Float[Tensor, "batch channels height width"]]:
        """The hidden feature and the feature of this scale, at its ``size``."""
        initial = self.initial(resized(self.narrow(hidden), size))
        remembered = self.memory(initial)
        merged = initial + self.merge(torch.cat([initial, remembered], dim=1))
        return merged, self.extract(merged)


class Student(nn.Module):
    """Teacher features in, the same features as good parts would have them out."""

    def __init__(self, spec: StudentSpec) -> None:
        super().__init__()
        self.spec = spec
        first, hidden = spec.channels[0], spec.hidden_channels
        self.standardisers = nn.ModuleList(Standardiser(channels) for channels in spec.channels)
        self.fusion = QueryFusion(spec.channels, hidden_channels=hidden[0])
        self.recall = RecallMemory(
            num_items=spec.num_recall_items,
            num_channels=first,
            temperature=spec.temperature,
            regularisation=spec.regularisation,
        )
        self.first = FirstModule(num_channels=first, hidden_channels=hidden[0])
        self.later = nn.ModuleList(
            LaterModule(
                num_in=hidden[k - 1],
                num_channels=spec.channels[k],
                hidden_channels=hidden[k],
                num_items=spec.num_adaptive_items,
            )
            for k in range(1, len(spec.channels))
        )

    def fit_statistics(
        self,
        features: tuple[Float[Tensor, "batch _ _ _"], ...],
        valid: tuple[Float[Tensor, "batch _ _"], ...],
    ) -> None:
        """Take the per-channel statistics of these teacher features at their valid positions."""
        for standardiser, scale, inside in zip(self.standardisers, features, valid, strict=True):
            standardiser.load_state_dict(Standardiser.fitted(scale, inside).state_dict())

    def standardised(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Teacher features of every scale in standard space."""
        return tuple(standardise(scale) for standardise, scale in zip(self.standardisers, features, strict=True))

    def extract(
        self,
        standard: tuple[Float[Tensor, "batch _ _ _"], ...],
        *,
        hidden_items: Bool[Tensor, "batch items"] | None = None,
    ) -> Extraction:
        """Standardised teacher features to standardised student features, with what led there."""
        query = self.fusion(*standard)
        recalled = self.recall(query, hidden_items=hidden_items)
        hidden, feature = self.first(recalled)
        features = [feature]
        for module, scale in zip(self.later, standard[1:], strict=True):
            hidden, feature = module(hidden, (scale.shape[-2], scale.shape[-1]))
            features.append(feature)
        return Extraction(query=query, recalled=recalled, features=tuple(features))

    def forward(self, *teacher_features: Float[Tensor, "batch _ _ _"]) -> tuple[Float[Tensor, "batch _ _ _"], ...]:
        """Teacher features of scales 1..K to student features of the same shapes, in the teacher's own space."""
        extracted = self.extract(self.standardised(teacher_features)).features
        return tuple(
            standardiser.inverse(scale)  # type: ignore[operator]  # a ModuleList forgets what it holds
            for standardiser, scale in zip(self.standardisers, extracted, strict=True)
        )
