"""The peers: anomalib's models as it configures them by default, with random weights.

Weights do not change how long a network takes. What is learned beside them has the size that a training would give it.
"""

from collections.abc import Callable

import torch
from torch import nn

from peers.operators import declare_operators
from peers.timing import SIZE_PX

declare_operators()
import timm  # noqa: E402  # needs the operators
from anomalib.models import (  # noqa: E402  # needs the operators
    EfficientAd,
    Padim,
    Patchcore,
    ReverseDistillation,
    Stfpm,
)
from anomalib.models.components import AnomalibModule  # noqa: E402

# A tenth of the patches of 160 images at stride 8: what the default coreset keeps of a common training set.
MEMORY_BANK = (16_384, 1_536)
SEED = 0
APART = {"visualizer": False, "evaluator": False}  # neither is part of what is deployed


def patchcore() -> AnomalibModule:
    """PatchCore on WideResNet-50, the default: layers 2 and 3, nine neighbours."""
    model = Patchcore(pre_trained=False, **APART)
    model.model.memory_bank = torch.randn(MEMORY_BANK)
    return model


def padim() -> AnomalibModule:
    """PaDiM on ResNet-18, the default: layers 1 to 3, 100 features and a Gaussian at each position of stride 4."""
    model = Padim(pre_trained=False, **APART)
    num_positions, num_features = (SIZE_PX // 4) ** 2, model.model.n_features
    model.model.gaussian.mean = torch.randn(num_features, num_positions)
    root = torch.randn(num_positions, num_features, num_features) / num_features**0.5
    model.model.gaussian.inv_covariance = root @ root.transpose(1, 2)
    return model


def reverse_distillation() -> AnomalibModule:
    """Reverse Distillation on WideResNet-50, the default: layers 1 to 3."""
    return ReverseDistillation(pre_trained=False, **APART)


def stfpm() -> AnomalibModule:
    """STFPM on ResNet-18, the default: layers 1 to 3."""
    return Stfpm(**APART)


def efficient_ad() -> AnomalibModule:
    """EfficientAD-S, the default size, with statistics as if it had been trained."""
    model = EfficientAd(**APART)
    spread = torch.rand_like(model.model.mean_std["std"]) + 0.5
    model.model.mean_std.update({"mean": torch.randn_like(spread), "std": spread})
    model.model.quantiles.update({name: torch.tensor(float(name[1] == "b")) for name in model.model.quantiles})
    return model


PEERS: dict[str, Callable[[], AnomalibModule]] = {
    "patchcore_wide_resnet50_2": patchcore,
    "padim_resnet18": padim,
    "reverse_distillation_wide_resnet50_2": reverse_distillation,
    "stfpm_resnet18": stfpm,
    "efficient_ad_s": efficient_ad,
}


def new_peer(name: str) -> AnomalibModule:
    """A peer ready to judge, the same weights each time."""
    torch.manual_seed(SEED)
    build, timm.create_model = timm.create_model, without_weights(timm.create_model)
    try:
        model = PEERS[name]().eval()
    finally:
        timm.create_model = build
    wake(model)
    normalise(model)
    return model


def without_weights(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """The builder of backbones, which never asks a hub for weights."""

    def build(*names: object, **settings: object) -> nn.Module:
        return build(*names, **{**settings, "pretrained": False})

    return build


def wake(model: nn.Module) -> None:
    """Let every branch count: a fresh residual block multiplies its own by 0, which a runtime could make use of."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)


def normalise(model: AnomalibModule) -> None:
    """Limits for the answers, as a validation would have found them; without them a step would fall away."""
    after = model.post_processor
    for name, limit in (("min", 0.0), ("max", 100.0)):
        getattr(after, f"image_{name}").fill_(limit)
        getattr(after, f"pixel_{name}").fill_(limit)
    for threshold in (after._image_threshold, after._pixel_threshold):  # noqa: SLF001  # there is no other way
        threshold.fill_(50.0)
