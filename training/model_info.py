"""Layers, shapes, parameters and multiply-adds of the networks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from training.fit.networks import create_networks
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
    """A network by its parts, and in total."""

    name: str
    layers: tuple[LayerInfo, ...]
    parameters: int
    macs: int


def describe_networks(settings: TrainSettings) -> tuple[NetworkInfo, NetworkInfo, NetworkInfo]:
    """Describe teacher, student and comparison by these settings, measured on a black image. Raises TrainingError."""
    networks = create_networks(settings)
    teacher, student, compare = networks.teacher, networks.student, networks.compare
    pixels = torch.zeros(1, settings.height, settings.width, 3, dtype=torch.uint8)
    valid = torch.ones(1, *settings.map_size)
    with torch.no_grad():
        seen = teacher(pixels)
        reconstruction = student(*seen)
    return (
        describe_network("teacher", teacher, lambda: teacher(pixels)),
        describe_network("student", student, lambda: student(*seen)),
        describe_network(
            "comparison",
            compare,
            lambda: compare(seen, reconstruction.features, reconstruction.expected_distances, valid),
        ),
    )


def describe_network(name: str, network: nn.Module, forward: Callable[[], object]) -> NetworkInfo:
    """Describe a network's parts, to a depth of three names, by one forward pass."""
    shapes: dict[str, str] = {}
    names = {module: path for path, module in network.named_modules() if path}

    def note(module: nn.Module, _: object, output: object) -> None:
        shapes[names[module]] = format_shape(output)

    hooks = [module.register_forward_hook(note) for module in names]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    for hook in hooks:
        hook.remove()
    counts = counter.get_flop_counts()
    root = type(network).__name__
    layers = tuple(
        LayerInfo(path, shapes[path], count_parameters(module), sum_macs(counts.get(f"{root}.{path}", {})))
        for module, path in names.items()
        if path in shapes and path.count(".") <= get_max_dots(path)
    )
    return NetworkInfo(name, layers, count_parameters(network), sum_macs(counts["Global"]))


def get_max_dots(path: str) -> int:
    """Return the depth of the rows: a teacher's blocks, a student's modules."""
    return 2 if path.startswith("network.") else 1


def sum_macs(counts: dict[object, int]) -> int:
    """Return multiply-adds from torch's counts, which count two operations each."""
    return sum(counts.values()) // 2


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def format_shape(output: object) -> str:
    """Return the shape of a tensor, or the shapes of several, without the batch."""
    if isinstance(output, Tensor):
        return " x ".join(map(str, output.shape[1:]))
    if isinstance(output, tuple):
        return ", ".join(format_shape(one) for one in output)
    return ""


def make_tables(settings: TrainSettings) -> list[Table]:
    """Return a table for each network."""
    return [make_table(network) for network in describe_networks(settings)]


def make_table(network: NetworkInfo) -> Table:
    """Return a table of the parts, with the total in the last row."""
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
