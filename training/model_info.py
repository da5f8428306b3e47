"""What a version is made of: layers, shapes, parameters, and multiply-adds for one image."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from training.fit.networks import new_networks
from training.settings import TrainSettings


@dataclass(frozen=True)
class LayerInfo:
    """One part of a network. ``macs``: multiply-adds for one image."""

    name: str
    shape: str
    parameters: int
    macs: int


@dataclass(frozen=True)
class NetworkInfo:
    """A network by its parts, and in all."""

    name: str
    layers: tuple[LayerInfo, ...]
    parameters: int
    macs: int


def networks_info(settings: TrainSettings) -> tuple[NetworkInfo, NetworkInfo, NetworkInfo]:
    """Teacher, student and comparison of these settings, measured on a black image. Raises TrainingError."""
    networks = new_networks(settings)
    teacher, student, compare = networks.teacher, networks.student, networks.compare
    pixels = torch.zeros(1, settings.height, settings.width, 3, dtype=torch.uint8)
    valid = torch.ones(1, *settings.map_size)
    with torch.no_grad():
        seen = teacher(pixels)
        reconstruction = student(*seen)
    return (
        info("teacher", teacher, lambda: teacher(pixels)),
        info("student", student, lambda: student(*seen)),
        info("comparison", compare, lambda: compare(seen, reconstruction, valid)),
    )


def info(name: str, network: nn.Module, forward: Callable[[], object]) -> NetworkInfo:
    """A network's parts, to a depth of three names, as one forward pass shows them."""
    shapes: dict[str, str] = {}
    names = {module: path for path, module in network.named_modules() if path}

    def note(module: nn.Module, _: object, output: object) -> None:
        shapes[names[module]] = shape_of(output)

    hooks = [module.register_forward_hook(note) for module in names]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    for hook in hooks:
        hook.remove()
    counts = counter.get_flop_counts()
    root = type(network).__name__
    layers = tuple(
        LayerInfo(path, shapes[path], parameters_of(module), total(counts.get(f"{root}.{path}", {})))
        for module, path in names.items()
        if path in shapes and path.count(".") <= most_dots(path)
    )
    return NetworkInfo(name, layers, parameters_of(network), total(counts["Global"]))


def most_dots(path: str) -> int:
    """How deep a path may be to have a row of its own: a teacher's blocks, a student's modules."""
    return 2 if path.startswith("network.") else 1


def total(counts: dict[object, int]) -> int:
    """Multiply-adds out of torch's counts, which take a multiply-add for two operations."""
    return sum(counts.values()) // 2


def parameters_of(module: nn.Module) -> int:
    """How many parameters a module holds."""
    return sum(parameter.numel() for parameter in module.parameters())


def shape_of(output: object) -> str:
    """The shape of a tensor or the shapes of several, the batch left out."""
    if isinstance(output, Tensor):
        return " x ".join(map(str, output.shape[1:]))
    if isinstance(output, tuple):
        return ", ".join(shape_of(one) for one in output)
    return ""


def tables(settings: TrainSettings) -> list[Table]:
    """A table a network."""
    return [table(network) for network in networks_info(settings)]


def table(network: NetworkInfo) -> Table:
    """Rows for the parts, the last row for the whole."""
    shown = Table(title=f"{network.name}, one image", title_justify="left")
    for name in ("layer", "output (channels x height x width)"):
        shown.add_column(name)
    for name in ("parameters", "multiply-adds"):
        shown.add_column(name, justify="right")
    for layer in network.layers:
        shown.add_row(layer.name, layer.shape, f"{layer.parameters:,}", f"{layer.macs:,}")
    shown.add_section()
    shown.add_row("in all", "", f"{network.parameters:,}", f"{network.macs:,}")
    return shown
