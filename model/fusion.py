"""The query: all scales of the teacher brought to one size, for the first scale's memory (claim 5)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


def resize(
    features: Float[Tensor, "batch channels height width"], size: tuple[int, int]
) -> Float[Tensor, "batch channels new_height new_width"]:
    """Resize feature maps: averaged where they shrink, interpolated where they grow."""
    if tuple(features.shape[-2:]) == size:
        return features
    height, width = features.shape[-2:]
    if height % size[0] == 0 and width % size[1] == 0:
        return functional.avg_pool2d(features, (height // size[0], width // size[1]))
    return functional.interpolate(features, size=size, mode="bilinear", align_corners=False)


class QueryFusion(nn.Module):
    """Concatenates the scales along the channels and makes the query of them.

    The query starts as the first scale's own block; the rest enters through a path whose last layer is zero. So the
    memory, whose keys are queries of good exemplars, judges well before any gradient step.
    """

    def __init__(self, channels: tuple[int, ...], *, hidden_channels: int) -> None:
        super().__init__()
        self.num_query_channels = channels[0]
        self.mix = nn.Conv2d(sum(channels), hidden_channels, kernel_size=1)
        self.add = nn.Conv2d(hidden_channels, channels[0], kernel_size=1)
        nn.init.zeros_(self.add.weight)
        nn.init.zeros_(self.add.bias)  # type: ignore[arg-type]  # a Conv2d made with its bias has one

    def forward(self, *features: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch query_channels height width"]:
        """Standardised features of scales 1..K to a query at every position of scale 1."""
        size = (features[0].shape[-2], features[0].shape[-1])
        fused = torch.cat([resize(scale, size) for scale in features], dim=1)
        added: Tensor = self.add(functional.relu(self.mix(fused)))
        return features[0] + added
