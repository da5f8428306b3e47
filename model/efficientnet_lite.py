"""EfficientNet-Lite: inverted residuals with ReLU6 and without squeeze-excitation, names as in the published weights.

Widths, depths and kernel sizes are those of the EfficientNet paper (Tan and Le, 2019, table 1) and its Lite variant,
which leaves the stem, the head and the depth of the first and last stage unscaled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
NUM_CLASSES = 1000


@dataclass(frozen=True)
class Stage:
    """A row of the paper's table 1: blocks that share a kernel and a width."""

    num_blocks: int
    kernel_size: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def round_channels(channels: float) -> int:
    """Round channels to a multiple of 8, at most a tenth below the given number."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def scale_stages(*, width: float, depth: float) -> list[Stage]:
    """Return the stages of a scaled network; the first and last keep their depth."""
    last = len(STAGES) - 1
    return [
        Stage(
            stage.num_blocks if index in (0, last) else math.ceil(depth * stage.num_blocks),
            stage.kernel_size,
            stage.stride,
            stage.expansion,
            round_channels(width * stage.channels),
        )
        for index, stage in enumerate(STAGES)
    ]


def make_batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return batch norm with the constants that the weights were trained with."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Expand, filter each channel, project; the input is added where its shape allows."""

    def __init__(self, num_in: int, stage: Stage, *, stride: int) -> None:
        super().__init__()
        hidden = num_in * stage.expansion
        if stage.expansion != 1:
            self._expand_conv = nn.Conv2d(num_in, hidden, 1, bias=False)
            self._bn0 = make_batch_norm(hidden)
        self._depthwise_conv = nn.Conv2d(
            hidden,
            hidden,
            stage.kernel_size,
            stride=stride,
            padding=stage.kernel_size // 2,
            groups=hidden,
            bias=False,
        )
        self._bn1 = make_batch_norm(hidden)
        self._project_conv = nn.Conv2d(hidden, stage.channels, 1, bias=False)
        self._bn2 = make_batch_norm(stage.channels)
        self.expands = stage.expansion != 1
        self.adds_input = stride == 1 and num_in == stage.channels

    def forward(self, x: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        """The block's projected output, where the teacher is tapped."""
        hidden = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        hidden = functional.relu6(self._bn1(self._depthwise_conv(hidden)))
        projected: Tensor = self._bn2(self._project_conv(hidden))
        return projected + x if self.adds_input else projected


class EfficientNetLite(nn.Module):
    """The whole network with its classifier, so that published weights load strictly and can be checked."""

    def __init__(self, *, width: float, depth: float) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, STEM_CHANNELS, 3, stride=2, padding=1, bias=False)
        self._bn0 = make_batch_norm(STEM_CHANNELS)
        blocks: list[Block] = []
        num_in = STEM_CHANNELS
        for stage in scale_stages(width=width, depth=depth):
            for index in range(stage.num_blocks):
                blocks.append(Block(num_in, stage, stride=stage.stride if index == 0 else 1))
                num_in = stage.channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(num_in, HEAD_CHANNELS, 1, bias=False)
        self._bn1 = make_batch_norm(HEAD_CHANNELS)
        self._fc = nn.Linear(HEAD_CHANNELS, NUM_CLASSES)

    @property
    def tap_indices(self) -> range:
        """The indices of the blocks that can be tapped."""
        return range(len(self._blocks))

    def forward_taps(self, pixels: Float[Tensor, "batch 3 height width"], taps: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the outputs of the blocks ``taps``, in the given order; later blocks are not computed."""
        outputs: dict[int, Tensor] = {}
        x = functional.relu6(self._bn0(self._conv_stem(pixels)))
        for index, block in enumerate(self._blocks[: max(taps) + 1]):
            outputs[index] = x = block(x)
        return tuple(outputs[tap] for tap in taps)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """ImageNet logits of normalised pixels."""
        (features,) = self.forward_taps(pixels, (len(self._blocks) - 1,))
        features = functional.relu6(self._bn1(self._conv_head(features)))
        logits: Tensor = self._fc(features.mean((2, 3)))
        return logits

    def truncate(self, last_tap: int) -> None:
        """Drop the blocks after ``last_tap``, which are not needed."""
        self._blocks = self._blocks[: last_tap + 1]
        del self._conv_head, self._bn1, self._fc
