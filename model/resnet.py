"""ResNets (He et al., 2016; wide ones: Zagoruyko and Komodakis, 2016), names as in torchvision's checkpoints."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

NUM_CLASSES = 1000
BOTTLENECK_EXPANSION = 4


def make_shortcut(num_in: int, num_out: int, stride: int) -> nn.Sequential | None:
    """Return a projection where the input's shape differs from the output's, else None."""
    if stride == 1 and num_in == num_out:
        return None
    return nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride=stride, bias=False), nn.BatchNorm2d(num_out))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions; ResNet-18 and -34 are made of these."""

    def __init__(self, num_in: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = make_shortcut(num_in, channels, stride)
        self.num_out = channels

    def forward(self, x: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        """The rectified sum of the convolutions and the shortcut."""
        straight = x if self.downsample is None else self.downsample(x)
        hidden = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(hidden)) + straight)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions, the stride on the middle one, as torchvision has it."""

    def __init__(self, num_in: int, channels: int, *, stride: int, width: int) -> None:
        super().__init__()
        hidden, self.num_out = channels * width, channels * BOTTLENECK_EXPANSION
        self.conv1 = nn.Conv2d(num_in, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, self.num_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.num_out)
        self.downsample = make_shortcut(num_in, self.num_out, stride)

    def forward(self, x: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        """The rectified sum of the convolutions and the shortcut."""
        straight = x if self.downsample is None else self.downsample(x)
        hidden = functional.relu(self.bn1(self.conv1(x)))
        hidden = functional.relu(self.bn2(self.conv2(hidden)))
        return functional.relu(self.bn3(self.conv3(hidden)) + straight)


class ResNet(nn.Module):
    """The whole network with its classifier, so that published weights load strictly.

    ``width`` is None for basic blocks, 1 for bottlenecks, 2 for wide ones.
    """

    def __init__(self, num_blocks: tuple[int, int, int, int], *, width: int | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.num_channels = 64
        self.layer1 = self._layer(num_blocks[0], 64, stride=1, width=width)
        self.layer2 = self._layer(num_blocks[1], 128, stride=2, width=width)
        self.layer3 = self._layer(num_blocks[2], 256, stride=2, width=width)
        self.layer4 = self._layer(num_blocks[3], 512, stride=2, width=width)
        self.fc = nn.Linear(self.num_channels, NUM_CLASSES)

    def _layer(self, num_blocks: int, channels: int, *, stride: int, width: int | None) -> nn.Sequential:
        blocks: list[BasicBlock | Bottleneck] = []
        for index in range(num_blocks):
            step = stride if index == 0 else 1
            if width is None:
                block: BasicBlock | Bottleneck = BasicBlock(self.num_channels, channels, stride=step)
            else:
                block = Bottleneck(self.num_channels, channels, stride=step, width=width)
            blocks.append(block)
            self.num_channels = block.num_out
        return nn.Sequential(*blocks)

    @property
    def tap_indices(self) -> range:
        """The indices of the layers that can be tapped."""
        return range(1, 5)

    def forward_taps(self, pixels: Float[Tensor, "batch 3 height width"], taps: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the outputs of layers ``taps`` (1 to 4), in the given order; later layers are not computed."""
        outputs: dict[int, Tensor] = {}
        x = functional.relu(self.bn1(self.conv1(pixels)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for index in range(1, max(taps) + 1):
            outputs[index] = x = getattr(self, f"layer{index}")(x)
        return tuple(outputs[tap] for tap in taps)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """ImageNet logits of normalised pixels."""
        (features,) = self.forward_taps(pixels, (4,))
        logits: Tensor = self.fc(features.mean((2, 3)))
        return logits

    def truncate(self, last_tap: int) -> None:
        """Drop the layers after ``last_tap``, which are not needed."""
        for index in range(last_tap + 1, 5):
            delattr(self, f"layer{index}")
        del self.fc
