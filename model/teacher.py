"""The frozen teacher: an ImageNet network of the registry (``model/teacher_specs.py``), tapped at a few strides."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from model.efficientnet_lite import EfficientNetLite
from model.fusion import resize
from model.resnet import ResNet
from model.teacher_specs import TeacherSpec, get_teacher_spec
from model.vit import VisionTransformer

Network = EfficientNetLite | ResNet | VisionTransformer
FAMILIES: Mapping[str, type[Network]] = {
    "efficientnet_lite": EfficientNetLite,
    "resnet": ResNet,
    "vit": VisionTransformer,
}
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


def make_network(spec: TeacherSpec) -> Network:
    """Return the whole network without weights."""
    return FAMILIES[spec.family](**spec.arguments)


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
    network = make_network(get_teacher_spec(name))
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
