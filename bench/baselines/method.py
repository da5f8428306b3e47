"""What a method is to the bench: it learns from features of good parts and judges features of others."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from model.compare import gaussian

Features = dict[int, Tensor]
MAP_SIZE = 256


class Judged(NamedTuple):
    """``scores``: (images); ``maps``: (images, h, w), larger where a position is more wrong."""

    scores: Tensor
    maps: Tensor


class Method(Protocol):
    """A baseline, or Goodpart. Features are raw taps by stride, (images, channels, height, width) each."""

    def fit(self, train: Features, *, seed: int) -> None:
        """Learn from good parts alone."""

    def judge(self, features: Features) -> Judged:
        """Scores and maps of other parts."""

    def size_bytes(self) -> int:
        """What has to be kept to judge, the teacher not counted, as float32."""


def enlarge(maps: Tensor, *, size: int = MAP_SIZE) -> Tensor:
    """Resize maps (images, h, w), bilinear."""
    return functional.interpolate(maps[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]


def smooth(maps: Tensor, *, sigma: float = 4.0) -> Tensor:
    """Convolve maps with a Gaussian; sigma 4 of 256 is what the papers of all baselines use."""
    kernel = gaussian(sigma)
    margin = len(kernel) // 2
    padded = functional.pad(maps[:, None], (margin,) * 4, mode="replicate")
    down = functional.conv2d(padded, kernel[None, None, :, None])
    return functional.conv2d(down, kernel[None, None, None, :])[:, 0]


def top_mean(maps: Tensor, *, share: float) -> Tensor:
    """The mean of each map's highest share of positions; at least one counts, so a share of 0 is the maximum."""
    flat = maps.flatten(1)
    count = max(1, round(share * flat.shape[1]))
    return flat.topk(count, dim=1).values.mean(1)


def parameters_bytes(network: torch.nn.Module) -> int:
    """What a network's parameters and buffers take."""
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
