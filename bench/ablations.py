"""What each part of the method is worth: one change from the default at a time, on the development sets.

What concerns the memory is tried on the memory alone, as the fast preset makes it; what concerns the student on the
default. Each group has a row ``default`` of its own. All good images train; rows are kept as they are done.
"""

import argparse
import itertools
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from evidence import fit_to_images, load_evidence
from goodpart import Goodpart
from quality import DEVELOPMENT, HEADINGS, Row, figures, keep, mean_and_spread, read_rows
from torch import Tensor, nn

from model.recall import Recalled
from model.student import Student, StudentSpec
from training.fit.memory import FeatureDataset, ItemOrigins, gather_positions
from training.settings import read_train_settings

SHOWN = ("image_auroc", "average_precision", "recall_at_1_percent")


class WithoutRecalledFeatures(Student):
    """A student whose modules get nothing of what was recalled; the memory still gives its own maps."""

    def extract(self, recalled: Recalled, standard: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the features of every scale, from the bottleneck alone."""
        nothing = tuple(torch.zeros_like(scale) for scale in recalled.features)
        return super().extract(recalled._replace(features=nothing), standard)


class WithoutBottleneck(Student):
    """A student whose modules get what was recalled and nothing else of the image."""

    def extract(self, recalled: Recalled, standard: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the features of every scale, from what was recalled alone."""
        return super().extract(recalled, tuple(torch.zeros_like(scale) for scale in standard))


class Zeros(nn.Module):
    """In place of an adaptive memory: nothing."""

    def forward(self, initial: Tensor) -> Tensor:
        """Return zeros of that shape."""
        return torch.zeros_like(initial)


class WithoutAdaptiveMemory(Student):
    """A student whose later modules have no memory."""

    def __init__(self, spec: StudentSpec) -> None:
        super().__init__(spec)
        for module in self.later:
            module.memory = Zeros()


class FirstScaleQuery(Student):
    """A memory that is queried with the first scale alone."""

    def make_query(self, standard: tuple[Tensor, ...]) -> Tensor:
        """Return the query."""
        first, *rest = self.view(standard)
        return self.fusion(first, *(torch.zeros_like(scale) for scale in rest))


class RandomItems(Goodpart):
    """A memory of positions drawn at random."""

    def fill(self, standard: tuple[Tensor, ...], valid: Tensor, generator: torch.Generator) -> ItemOrigins:
        """Fill the memory."""
        super().fill(standard, valid, generator)  # fits the query
        num_positions = standard[0].shape[-2] * standard[0].shape[-1]
        chosen = torch.randperm(len(standard[0]) * num_positions, generator=generator)
        chosen = chosen[: self.settings.num_recall_items].sort().values
        fused, values = gather_positions(self.student, standard, chosen)
        self.student.recall.write(keys=fused @ self.student.fusion.projection.weight[:, :, 0, 0].mT, values=values)
        return ItemOrigins(chosen // num_positions, chosen % num_positions)


class AbsoluteDistances(Goodpart):
    """A memory without expected distances."""

    def fit_expected(self, known: FeatureDataset) -> None:
        """Leave every expected distance at 1."""


@dataclass(frozen=True)
class Change:
    """One change from the default."""

    settings: tuple[str, ...] = ()
    method: type[Goodpart] = Goodpart
    student: type[Student] = Student


GROUPS: dict[str, dict[str, Change]] = {
    "memory": {
        "default": Change(),
        "first scale's query (no claim 5)": Change(student=FirstScaleQuery),
        "items at random": Change(method=RandomItems),
        "absolute distances": Change(method=AbsoluteDistances),
        "1,000 items": Change(("num_recall_items=1000",)),
        "regularisation 1": Change(("regularisation=1",)),
        "regularisation 3": Change(("regularisation=3",)),
        "memory of stride 16 alone": Change(("strides=[16]",)),
    },
    "student": {
        "default": Change(),
        "nothing recalled reaches the modules (no claim 3)": Change(student=WithoutRecalledFeatures),
        "no bottleneck": Change(student=WithoutBottleneck),
        "no adaptive memory (no claims 6 to 8)": Change(student=WithoutAdaptiveMemory),
        "memory trained for 100 steps": Change(("memory.num_steps=100",)),
    },
}


def main() -> None:
    """Compute what is missing, keep each row, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help=f"the folders {', '.join(DEVELOPMENT)}")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=list(GROUPS))
    parser.add_argument("--out", type=Path, default=Path("bench/results/ablations.json"))
    given = parser.parse_args()
    if not {folder.name for folder in given.data} <= set(DEVELOPMENT):
        parser.error(f"designs are chosen on {', '.join(DEVELOPMENT)} alone")
    torch.set_num_threads(given.threads)
    for folder in given.data:
        evidence = None
        changes = [(group, name) for group in given.groups for name in GROUPS[group]]
        for (group, name), seed in itertools.product(changes, range(given.seeds)):
            key = {"group": group, "change": name, "dataset": folder.name, "role": "development", "seed": seed}
            if any({one: row[one] for one in key} == key for row in read_rows(given.out)):
                continue
            change = GROUPS[group][name]
            settings = fit_to_images(read_train_settings(None, change.settings, quick=group == "memory"), folder)
            evidence = evidence or load_evidence(folder, teacher=settings.teacher, size=settings.height)
            method = change.method(settings, change.student)
            method.fit(evidence.train, seed=seed)
            keep(given.out, {**key, **figures(method.judge(evidence.test), evidence)})
            print(group, name, folder.name, seed, flush=True)
    print(format_tables(read_rows(given.out)))


def format_tables(rows: list[Row]) -> str:
    """Return a Markdown table a group: a row a change, mean and spread over the seeds of the mean over the sets."""
    return "\n\n".join(format_table(group, [row for row in rows if row["group"] == group]) for group in GROUPS)


def format_table(group: str, rows: list[Row]) -> str:
    """Return one group's table. A change enters with the seeds that it has on all sets of the group."""
    lines = [
        f"| {group} | seeds | {' | '.join(HEADINGS[name] for name in SHOWN)} |",
        "| --- " * (len(SHOWN) + 2) + "|",
    ]
    num_sets = len({row["dataset"] for row in rows})
    for name in GROUPS[group]:
        by_seed: dict[int, list[Row]] = defaultdict(list)
        for row in rows:
            if row["change"] == name:
                by_seed[row["seed"]].append(row)
        seeds = [some for some in by_seed.values() if len(some) == num_sets]
        if seeds:
            means = {shown: [sum(row[shown] for row in some) / num_sets for some in seeds] for shown in SHOWN}
            cells = " | ".join(mean_and_spread(means[shown]) for shown in SHOWN)
            lines.append(f"| {name} | {len(seeds)} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
