"""The student: one extraction module a scale, each with a memory; reconstructs the teacher's features.

The image reaches the student's features only through the recall memory (claim 3): the query recalls features of good
parts, which are decoded, first at their own scale, then scale by scale (claims 1, 2).

Every module also predicts the expected distance of good parts to its feature, so that the comparison can tell anomalies
from ordinary variation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from model.adaptive import AdaptiveMemory
from model.fusion import QueryFusion, resize
from model.recall import Recalled, RecallMemory
from model.standardise import Standardiser


@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """The shape of a student. ``channels`` and ``hidden_channels`` name one number a scale, the first first."""

    channels: tuple[int, ...]
    hidden_channels: tuple[int, ...]
    num_recall_items: int
    num_read_items: int
    num_adaptive_items: int
    temperature: float
    regularisation: float


@dataclass(frozen=True)
class Extraction:
    """The extracted features of each scale, in standard space, and their expected distances."""

    features: tuple[Tensor, ...]
    expected_distances: tuple[Tensor, ...]


class Reconstruction(NamedTuple):
    """The student's output, scales 1..K: features in the teacher's space, and their expected distances.

    ``items`` and ``weights`` (batch, positions, read): what the recall memory read at the first scale's positions.
    """

    features: tuple[Tensor, ...]
    expected_distances: tuple[Tensor, ...]
    items: Tensor
    weights: Tensor


def make_convolution(num_in: int, num_out: int, *, kernel_size: int = 3) -> nn.Sequential:
    """Return a convolution that keeps the size, with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(num_out),
        nn.ReLU(),
    )


def zero_init(convolution_1x1: nn.Conv2d) -> nn.Conv2d:
    """Set all parameters of a layer to 0, so that what it is added to starts unchanged."""
    for parameter in convolution_1x1.parameters():
        nn.init.zeros_(parameter)
    return convolution_1x1


class FirstModule(nn.Module):
    """Extracts the first scale's features from what was recalled.

    Starts as the recalled features and their expected distance themselves: its corrections end in layers of zeros.
    """

    def __init__(self, *, num_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            make_convolution(num_channels, hidden_channels), make_convolution(hidden_channels, hidden_channels)
        )
        self.correction = zero_init(nn.Conv2d(hidden_channels, num_channels, kernel_size=1))
        self.usual = zero_init(nn.Conv2d(hidden_channels, 1, kernel_size=1))

    def forward(
        self,
        recalled: Float[Tensor, "batch channels height width"],
        expected_distance: Float[Tensor, "batch height width"],
    ) -> tuple[
        Float[Tensor, "batch hidden height width"],
        Float[Tensor, "batch channels height width"],
        Float[Tensor, "batch height width"],
    ]:
        """Return the hidden feature for the later scales, the first scale's feature, and its expected distance."""
        hidden = self.body(recalled)
        return hidden, recalled + self.correction(hidden), expected_distance * self.usual(hidden)[:, 0].exp()


class LaterModule(nn.Module):
    """Extracts a later scale's features from the scale before and its adaptive memory."""

    def __init__(self, *, num_in: int, num_channels: int, hidden_channels: int, num_items: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(num_in, hidden_channels, kernel_size=1)
        self.initial = make_convolution(hidden_channels, hidden_channels)
        self.memory = AdaptiveMemory(num_items=num_items, num_channels=hidden_channels)
        self.merge = make_convolution(2 * hidden_channels, hidden_channels, kernel_size=1)
        self.extract = nn.Conv2d(hidden_channels, num_channels, kernel_size=1)
        self.usual = zero_init(nn.Conv2d(hidden_channels, 1, kernel_size=1))

    def forward(
        self, hidden: Float[Tensor, "batch hidden_before _ _"], size: tuple[int, int]
    ) -> tuple[
        Float[Tensor, "batch hidden height width"],
        Float[Tensor, "batch channels height width"],
        Float[Tensor, "batch height width"],
    ]:
        """Return the hidden feature, the feature and the expected distance of this scale, at its ``size``."""
        initial = self.initial(resize(self.narrow(hidden), size))
        remembered = self.memory(initial)
        merged = initial + self.merge(torch.cat([initial, remembered], dim=1))
        return merged, self.extract(merged), self.usual(merged)[:, 0].exp()


class Student(nn.Module):
    """Reconstructs teacher features as good parts would have them."""

    def __init__(self, spec: StudentSpec) -> None:
        super().__init__()
        self.spec = spec
        first, hidden = spec.channels[0], spec.hidden_channels
        self.standardisers = nn.ModuleList(Standardiser(channels) for channels in spec.channels)
        self.fusion = QueryFusion(spec.channels, hidden_channels=hidden[0])
        self.recall = RecallMemory(
            num_items=spec.num_recall_items,
            num_channels=first,
            num_read=spec.num_read_items,
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
        """Fit the per-channel statistics on teacher features at their valid positions."""
        for standardiser, scale, inside in zip(self.standardisers, features, valid, strict=True):
            standardiser.load_state_dict(Standardiser.fit(scale, inside).state_dict())

    def standardise(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return teacher features of every scale in standard space."""
        return tuple(standardise(scale) for standardise, scale in zip(self.standardisers, features, strict=True))

    def extract(self, recalled: Recalled, sizes: Sequence[tuple[int, int]]) -> Extraction:
        """Extract the features of every scale from what was recalled; ``sizes``: height and width of scales 2..K."""
        hidden, feature, usual = self.first(recalled.features, recalled.expected_distance)
        features, usual_distances = [feature], [usual]
        for module, size in zip(self.later, sizes, strict=True):
            hidden, feature, usual = module(hidden, size)
            features.append(feature)
            usual_distances.append(usual)
        return Extraction(tuple(features), tuple(usual_distances))

    def forward(
        self,
        *teacher_features: Float[Tensor, "batch _ _ _"],
        hidden_items: Bool[Tensor, "batch items"] | None = None,
    ) -> Reconstruction:
        """Reconstruct teacher features of scales 1..K, in the teacher's own space.

        ``hidden_items`` are not recalled: while training, an image must not recall its own items.
        """
        standard = self.standardise(teacher_features)
        recalled = self.recall(self.fusion(*standard), hidden_items=hidden_items)
        extraction = self.extract(recalled, [(scale.shape[-2], scale.shape[-1]) for scale in standard[1:]])
        features = tuple(
            standardiser.inverse(scale)  # type: ignore[operator]  # a ModuleList forgets what it holds
            for standardiser, scale in zip(self.standardisers, extraction.features, strict=True)
        )
        return Reconstruction(features, extraction.expected_distances, recalled.items, recalled.weights)
