"""Per-channel statistics of the teacher's features, so that all channels count alike."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

# A channel that never varies on good parts would divide by zero; ImageNet features vary by 0.01 to 10.
MIN_SPREAD = 1e-4


class Standardiser(nn.Module):
    """Maps features to mean 0 and spread 1 in each channel of one scale, and back."""

    mean: Tensor
    spread: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_channels))
        self.register_buffer("spread", torch.ones(num_channels))

    @classmethod
    def fit(
        cls,
        features: Float[Tensor, "batch channels height width"],
        valid: Float[Tensor, "batch height width"],
    ) -> "Standardiser":
        """Return the standardiser of features of good parts, over the positions where ``valid`` is not 0."""
        standardiser = cls(features.shape[1])
        inside = features.movedim(1, -1)[valid > 0]  # (positions, channels)
        standardiser.mean.copy_(inside.mean(0))
        standardiser.spread.copy_(inside.std(0).clamp_min(MIN_SPREAD))
        return standardiser

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Teacher space to standard space."""
        return (features - self.mean[:, None, None]) / self.spread[:, None, None]

    def inverse(
        self, standard: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Standard space to teacher space."""
        return standard * self.spread[:, None, None] + self.mean[:, None, None]
