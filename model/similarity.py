"""The similarity of two features: one measure for recall, comparison and loss.

Plain cosine is unreliable where features are small: a flat background has features near zero, whose directions are
noise. So one constant channel is appended before normalising. Its square is ``regularisation`` times the mean squared
norm of standardised features, which is their number of channels.
"""

import torch
from jaxtyping import Float
from torch import Tensor

MIN_NORM = 1e-12


def to_direction(
    features: Float[Tensor, "*rows channels"], *, regularisation: float
) -> Float[Tensor, "*rows channels+1"]:
    """Return unit vectors of standardised features with one constant channel appended."""
    constant = (regularisation * features.shape[-1]) ** 0.5
    padded = torch.nn.functional.pad(features, (0, 1), value=constant)
    return torch.nn.functional.normalize(padded, dim=-1)


def cosine_distance(
    expected: Float[Tensor, "batch channels height width"],
    found: Float[Tensor, "batch channels height width"],
    *,
    regularisation: float,
) -> Float[Tensor, "batch height width"]:
    """Return ``1 - cos`` of two standardised feature maps at each position, in 0 to 2.

    The constant channel enters as a summand: unit vectors would take as much memory as the features once more.
    """
    constant = regularisation * expected.shape[1]
    product = sum_channels(expected * found) + constant
    squares = (sum_channels(expected * expected) + constant) * (sum_channels(found * found) + constant)
    return 1 - product / squares.sqrt().clamp_min(MIN_NORM)


def sum_channels(maps: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch height width"]:
    """Return the sum over the channels, as a matrix product: ONNX Runtime's ReduceSum takes ten times as long."""
    summed = maps.new_ones(1, maps.shape[1]) @ maps.flatten(2)  # (batch, 1, positions)
    return torch.unflatten(summed[:, 0], 1, (maps.shape[-2], maps.shape[-1]))
