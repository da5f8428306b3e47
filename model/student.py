"""The student: extraction modules with memories that reconstruct the teacher's features (claims 1, 2).

It reconstructs every scale twice. *Recalled*: from the query result of the recall memory alone, so that nothing of the
image passes but by what good parts had there (claim 3). *Extracted*: from the query result joined with the feature of
the one-class bottleneck, which follows the image at hand. The two fail on different products (decision 014). Later
modules make their initial feature from the first module's hidden feature and refine it by their adaptive memory (claim
6).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from model.adaptive import AdaptiveMemory
from model.bottleneck import OneClassBottleneck, convolve
from model.fusion import MemoryView, QueryFusion, resize
from model.recall import Recalled, RecallMemory
from model.standardise import Standardiser

# Bounds of the logarithm of a decoded expected distance.
LOG_DISTANCES = (-6.0, 6.0)


@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """The shape of a student. ``channels``, ``strides``, ``hidden_channels``: one number a scale, the first first.

    ``num_stored``: how many scales, from the first on, the recall memory holds values of. ``extracts``: False for a
    student without modules, whose features are the query result alone; it needs no gradient step.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    hidden_channels: tuple[int, ...]
    bottleneck_channels: int
    query_channels: int
    num_stored: int
    num_recall_items: int
    num_read_items: int
    num_adaptive_items: int
    temperature: float
    regularisation: float
    extracts: bool = True


class Reconstruction(NamedTuple):
    """The student's output.

    ``recalled``: the query result of each stored scale, as the memory sees it, then the features of the other scales
    that are decoded from it; with their ``expected_distances`` (batch, height, width). ``extracted``: the features of
    scales 1..K in the teacher's space. ``items`` and ``weights`` (batch, positions, read): what the recall memory read
    at the first scale's positions.
    """

    recalled: tuple[Tensor, ...]
    expected_distances: tuple[Tensor, ...]
    extracted: tuple[Tensor, ...]
    items: Tensor
    weights: Tensor


class FirstModule(nn.Module):
    """Extracts the first scale's feature from the query result joined with the bottleneck's feature."""

    def __init__(self, *, num_in: int, num_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.join = nn.Sequential(
            convolve(num_in, hidden_channels, kernel_size=1), convolve(hidden_channels, hidden_channels)
        )
        self.extract = nn.Conv2d(hidden_channels, num_channels, kernel_size=1)

    def forward(
        self,
        recalled: tuple[Float[Tensor, "batch _ height width"], ...],
        compressed: Float[Tensor, "batch _ height width"],
    ) -> tuple[Float[Tensor, "batch hidden height width"], Float[Tensor, "batch channels height width"]]:
        """Return the hidden feature, which the later modules start from, and the first scale's feature."""
        hidden = self.join(torch.cat([*recalled, compressed], dim=1))
        return hidden, self.extract(hidden)


class LaterModule(nn.Module):
    """Extracts a later scale's feature from the first module's hidden feature and its own adaptive memory."""

    def __init__(self, *, num_in: int, num_channels: int, hidden_channels: int, num_items: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(num_in, hidden_channels, kernel_size=1)
        self.initial = convolve(hidden_channels, hidden_channels)
        self.memory = AdaptiveMemory(num_items=num_items, num_channels=hidden_channels)
        self.merge = convolve(2 * hidden_channels, hidden_channels, kernel_size=1)
        self.extract = nn.Conv2d(hidden_channels, num_channels, kernel_size=1)

    def forward(
        self, hidden: Float[Tensor, "batch hidden_before _ _"], size: tuple[int, int]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the feature of this scale at its ``size``."""
        initial = self.initial(resize(self.narrow(hidden), size))
        feature: Tensor = self.extract(initial + self.merge(torch.cat([initial, self.memory(initial)], dim=1)))
        return feature


class MemoryDecoder(nn.Module):
    """Decodes the scales that the memory does not store from the query result, and how far good parts are from them."""

    def __init__(self, *, num_in: int, hidden_channels: int, later: list[LaterModule]) -> None:
        super().__init__()
        self.join = nn.Sequential(
            convolve(num_in, hidden_channels, kernel_size=1), convolve(hidden_channels, hidden_channels)
        )
        self.later = nn.ModuleList(later)
        self.log_distances = nn.Conv2d(hidden_channels, len(later), kernel_size=1)
        nn.init.zeros_(self.log_distances.weight)

    def forward(
        self, recalled: tuple[Float[Tensor, "batch _ height width"], ...], sizes: list[tuple[int, int]]
    ) -> tuple[tuple[Float[Tensor, "batch _ _ _"], ...], tuple[Float[Tensor, "batch _ _"], ...]]:
        """Return the feature of each scale and its expected distance, at the scale's size."""
        hidden = self.join(torch.cat(recalled, dim=1))
        expected = self.log_distances(hidden).clamp(*LOG_DISTANCES).exp().split(1, dim=1)
        return (
            tuple(module(hidden, size) for module, size in zip(self.later, sizes, strict=True)),
            tuple(resize(one, size)[:, 0] for one, size in zip(expected, sizes, strict=True)),
        )


class Student(nn.Module):
    """Reconstructs teacher features as good parts would have them."""

    def __init__(self, spec: StudentSpec) -> None:
        super().__init__()
        self.spec = spec
        value_channels = spec.channels[: spec.num_stored]
        self.standardisers = nn.ModuleList(Standardiser(channels) for channels in spec.channels)
        self.view = MemoryView(spec.channels[0])
        self.fusion = QueryFusion(spec.channels, query_channels=spec.query_channels)
        self.recall = RecallMemory(
            num_items=spec.num_recall_items,
            query_channels=spec.query_channels,
            value_channels=value_channels,
            num_read=spec.num_read_items,
            temperature=spec.temperature,
            regularisation=spec.regularisation,
        )
        self.decoder: MemoryDecoder | None = None
        if spec.extracts:
            self._add_modules(spec)

    def _add_modules(self, spec: StudentSpec) -> None:
        first, hidden = spec.channels[0], spec.hidden_channels
        num_values = sum(spec.channels[: spec.num_stored])
        if spec.num_stored < len(spec.channels):
            self.decoder = MemoryDecoder(
                num_in=num_values,
                hidden_channels=hidden[0],
                later=[self._make_later(spec, k) for k in range(spec.num_stored, len(spec.channels))],
            )
        self.bottleneck = OneClassBottleneck(
            spec.channels, spec.strides, width=spec.bottleneck_channels, num_out=hidden[0]
        )
        self.first = FirstModule(num_in=num_values + hidden[0], num_channels=first, hidden_channels=hidden[0])
        self.later = nn.ModuleList(self._make_later(spec, k) for k in range(1, len(spec.channels)))

    @staticmethod
    def _make_later(spec: StudentSpec, k: int) -> LaterModule:
        return LaterModule(
            num_in=spec.hidden_channels[0],
            num_channels=spec.channels[k],
            hidden_channels=spec.hidden_channels[k],
            num_items=spec.num_adaptive_items,
        )

    def fit_statistics(
        self,
        features: tuple[Float[Tensor, "batch _ _ _"], ...],
        valid: tuple[Float[Tensor, "batch _ _"], ...],
    ) -> None:
        """Fit the per-channel statistics on teacher features at their valid positions."""
        for standardiser, scale, inside in zip(self.standardisers, features, valid, strict=True):
            standardiser.load_state_dict(Standardiser.fit(scale, inside).state_dict())
        self.view.fit(self.standardisers[0](features[0]), valid[0])

    def standardise(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return teacher features of every scale in standard space."""
        return tuple(standardise(scale) for standardise, scale in zip(self.standardisers, features, strict=True))

    def make_values(self, standard: tuple[Tensor, ...]) -> Float[Tensor, "batch all_channels height width"]:
        """Return what the memory stores of standardised features: every stored scale at the first scale's size."""
        return torch.cat(self.view(standard[: self.spec.num_stored]), dim=1)

    def make_query(self, standard: tuple[Tensor, ...]) -> Float[Tensor, "batch query_channels height width"]:
        """Return the memory query of standardised features of scales 1..K."""
        query: Tensor = self.fusion(*self.view(standard))
        return query

    def decode(self, recalled: Recalled, standard: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Decode the scales that are not stored from the query result, with their expected distances."""
        if self.decoder is None:
            return (), ()
        sizes = [(scale.shape[-2], scale.shape[-1]) for scale in standard[self.spec.num_stored :]]
        decoded: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] = self.decoder(recalled.features, sizes)
        return decoded

    def extract(self, recalled: Recalled, standard: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Extract the features of scales 1..K, in standard space, from the query result and the bottleneck."""
        hidden, feature = self.first(recalled.features, self.bottleneck(*standard))
        sizes = [(scale.shape[-2], scale.shape[-1]) for scale in standard[1:]]
        return feature, *(module(hidden, size) for module, size in zip(self.later, sizes, strict=True))

    def forward(
        self,
        *teacher_features: Float[Tensor, "batch _ _ _"],
        hidden_items: Bool[Tensor, "batch items"] | None = None,
    ) -> Reconstruction:
        """Reconstruct teacher features of scales 1..K.

        ``hidden_items`` are not recalled: while training, an image must not recall its own items.
        """
        standard = self.standardise(teacher_features)
        recalled = self.recall(self.make_query(standard), hidden_items=hidden_items)
        decoded, expected = self.decode(recalled, standard)
        extracted = self.extract(recalled, standard) if self.spec.extracts else ()
        return Reconstruction(
            recalled=(*recalled.features, *decoded),
            expected_distances=(*recalled.expected_distances, *expected),
            extracted=tuple(
                standardiser.inverse(scale)  # type: ignore[operator]  # ModuleList loses the type of its elements
                for standardiser, scale in zip(self.standardisers, extracted, strict=False)
            ),
            items=recalled.items,
            weights=recalled.weights,
        )
