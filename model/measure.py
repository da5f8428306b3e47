"""How alike two features are: one measure for recall, comparison and loss.

Cosine lies where features are small: a flat background has features near zero, whose directions are noise. So one
constant channel is appended before normalising. Its square is ``regularisation`` times the mean squared norm of
standardised features, which is their number of channels: a feature must rise above that before its direction counts.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def direction(features: Float[Tensor, "*rows channels"], *, regularisation: float) -> Float[Tensor, "*rows channels+1"]:
    """Unit vectors of standardised features, one constant channel appended."""
    constant = (regularisation * features.shape[-1]) ** 0.5
    padded = torch.nn.functional.pad(features, (0, 1), value=constant)
    return torch.nn.functional.normalize(padded, dim=-1)


def distance(
    expected: Float[Tensor, "batch channels height width"],
    seen: Float[Tensor, "batch channels height width"],
    *,
    regularisation: float,
) -> Float[Tensor, "batch height width"]:
    """``1 - cos`` of two standardised feature maps at each position, in 0 to 2."""
    a = direction(expected.movedim(1, -1), regularisation=regularisation)
    b = direction(seen.movedim(1, -1), regularisation=regularisation)
    return 1 - (a * b).sum(-1)
