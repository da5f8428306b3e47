"""The one-class bottleneck: all scales of the image compressed so far that only what good parts share fits through.

From reverse distillation (Deng and Li, CVPR 2022). A student that reads the recall memory alone cannot follow parts at
arbitrary angles in detail; the bottleneck gives it the layout of the image at hand without its defects.
"""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.fusion import resize


def convolve(num_in: int, num_out: int, *, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, kernel_size, stride=stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(num_out),
        nn.ReLU(),
    )


class OneClassBottleneck(nn.Module):
    """Compresses all scales to half the coarsest scale's size and grows the result back to the first scale's."""

    def __init__(self, channels: tuple[int, ...], strides: tuple[int, ...], *, width: int, num_out: int) -> None:
        super().__init__()
        coarsest = max(strides)
        self.shrink = nn.ModuleList(
            self._shrink(num_channels, width, num_halvings=(coarsest // stride).bit_length() - 1)
            for num_channels, stride in zip(channels, strides, strict=True)
        )
        self.compress = nn.Sequential(
            convolve(width * len(channels), width, kernel_size=1),
            convolve(width, width, stride=2),
            convolve(width, width),
        )
        num_doublings = (2 * coarsest // strides[0]).bit_length() - 1
        widths = [width, *(max(num_out, width >> step) for step in range(1, num_doublings)), num_out]
        self.grow = nn.ModuleList(convolve(a, b) for a, b in itertools.pairwise(widths))

    @staticmethod
    def _shrink(num_in: int, width: int, *, num_halvings: int) -> nn.Sequential:
        if num_halvings == 0:
            return convolve(num_in, width, kernel_size=1)
        return nn.Sequential(*(convolve(num_in if i == 0 else width, width, stride=2) for i in range(num_halvings)))

    def forward(self, *features: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch out height width"]:
        """Return the bottleneck's feature at the first scale's size, from standardised features of scales 1..K."""
        size = (features[0].shape[-2], features[0].shape[-1])
        shrunk = [shrink(scale) for shrink, scale in zip(self.shrink, features, strict=True)]
        coarsest = (min(one.shape[-2] for one in shrunk), min(one.shape[-1] for one in shrunk))
        hidden: Tensor = self.compress(torch.cat([resize(one, coarsest) for one in shrunk], dim=1))
        num_steps = len(self.grow)
        for step, grow in enumerate(self.grow, start=1):
            shift = num_steps - step
            hidden = grow(resize(hidden, (-(-size[0] >> shift), -(-size[1] >> shift))))
        return hidden
