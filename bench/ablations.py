"""What each part of the method is worth: one change from the default at a time, on the development set alone.

Three groups, since a machine's hours are few: what concerns the memory is tried on the memory alone, as ``--quick``
makes it; what concerns the student with ``NUM_STEPS`` gradient steps; what concerns the score by judging anew what one
training per seed has learned. Each group has a row ``default`` of its own. Published split; rows are kept as they are
done.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from evidence import load_evidence, select
from goodpart import Goodpart, nothing
from quality import DEVELOPMENT, HEADINGS, Row, figures, keep, mean_and_spread, read_rows
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from model.recall import Recalled
from model.student import FirstModule, Student, StudentSpec
from training.fit.distillation import TrainingSet, distill
from training.fit.memory import FeatureDataset, ItemOrigins, fit_expected_distances, recall_all, train_memory
from training.settings import read_train_settings

NUM_STEPS = 300
BOTTLENECK_CHANNELS = 16
SHOWN = ("image_auroc", "average_precision", "recall_at_1_percent", "pixel_auroc", "aupro")


class NothingRecalled(nn.Module):
    """In place of a memory: the query itself, as far off as anything."""

    keys: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keys", torch.empty(0))

    def forward(self, query: Tensor, *, hidden_items: Tensor | None = None) -> Recalled:
        """What was asked."""
        nothing_read = torch.zeros(len(query), 1, 1)
        return Recalled(query, torch.ones_like(query[:, 0]), nothing_read.long(), nothing_read)


class Bottleneck(FirstModule):
    """In place of recall: the first scale through few channels, as reverse distillation does."""

    def __init__(self, *, num_channels: int, hidden_channels: int) -> None:
        super().__init__(num_channels=num_channels, hidden_channels=hidden_channels)
        self.squeeze = nn.Sequential(
            nn.Conv2d(num_channels, BOTTLENECK_CHANNELS, 1), nn.ReLU(), nn.Conv2d(BOTTLENECK_CHANNELS, num_channels, 1)
        )

    def forward(self, recalled: Tensor, usual_distance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``FirstModule``'s, of what came through."""
        return super().forward(self.squeeze(recalled), usual_distance)


class WithoutRecall(Student):
    """Adaptive memories only."""

    def __init__(self, spec: StudentSpec) -> None:
        super().__init__(spec)
        self.recall = NothingRecalled()
        self.first = Bottleneck(num_channels=spec.channels[0], hidden_channels=spec.hidden_channels[0])


class Forgetful(nn.Module):
    """In place of an adaptive memory: nothing."""

    def forward(self, initial: Tensor) -> Tensor:
        """Zeros of that shape."""
        return torch.zeros_like(initial)


class WithoutAdaptive(Student):
    """The recall memory only."""

    def __init__(self, spec: StudentSpec) -> None:
        super().__init__(spec)
        for module in self.later:
            module.memory = Forgetful()


class WithoutMemory(WithoutRecall):
    """Neither."""

    def __init__(self, spec: StudentSpec) -> None:
        super().__init__(spec)
        for module in self.later:
            module.memory = Forgetful()


class Replacing(nn.Module):
    """A merge that takes what was remembered and leaves what asked."""

    def __init__(self, merge: nn.Module) -> None:
        super().__init__()
        self.merge = merge

    def forward(self, both: Tensor) -> Tensor:
        """What ``LaterModule`` adds to the initial feature."""
        initial, remembered = both.chunk(2, dim=1)
        return remembered - initial  # LaterModule adds the initial feature again


class Concatenating(Replacing):
    """A merge of both without the residual."""

    def forward(self, both: Tensor) -> Tensor:
        """What ``LaterModule`` adds to the initial feature."""
        return self.merge(both) - both.chunk(2, dim=1)[0]


def merging(kind: type[Replacing]) -> type[Student]:
    """A student whose later modules merge in another way."""

    class Merging(Student):
        def __init__(self, spec: StudentSpec) -> None:
            super().__init__(spec)
            for module in self.later:
                module.merge = kind(module.merge)

    return Merging


def nowhere(num_items: int) -> ItemOrigins:
    """Items that are no image's."""
    return ItemOrigins(torch.full((num_items,), -1), torch.full((num_items,), -1))


class Untaught(Goodpart):
    """Without a recall memory there is nothing to teach or to tell usual distances of."""

    def fill(self, standard: Tensor, valid: Tensor, generator: torch.Generator) -> ItemOrigins:
        """Return items without an origin."""
        return nowhere(self.settings.num_recall_items)

    def train(self, exemplars: FeatureDataset, generator: torch.Generator) -> None:
        """As ``Goodpart``'s, with this change."""
        lesson = TrainingSet(exemplars, recall_all(self.student, exemplars))
        distill(self.student, lesson, settings=self.settings.learning, generator=generator, on_step=nothing)
        self.student.eval()


class Noisy(Goodpart):
    """A memory filled with noise: what teaching alone makes of it."""

    def fill(self, standard: Tensor, valid: Tensor, generator: torch.Generator) -> ItemOrigins:
        """Fill the memory with noise; items have no origin."""
        noise = torch.randn(self.settings.num_recall_items, standard.shape[1], generator=generator)
        self.student.recall.write(keys=noise, values=noise)
        return nowhere(len(noise))


class Taught(Goodpart):
    """A memory that was filled and taught, without a student trained on it."""

    def train(self, exemplars: FeatureDataset, generator: torch.Generator) -> None:
        """As ``Goodpart``'s, with this change."""
        train_memory(self.student, exemplars, settings=self.settings.memory, generator=generator, on_step=nothing)
        fit_expected_distances(self.student, exemplars)


class NoisyTaught(Noisy, Taught):
    """Noise, then taught."""


class Drawn(Goodpart):
    """A memory of positions drawn at random."""

    def fill(self, standard: Tensor, valid: Tensor, generator: torch.Generator) -> ItemOrigins:
        """Fill the memory with random positions; return the origin of each item."""
        rows = standard.movedim(1, -1).flatten(0, 2)
        items = torch.randperm(len(rows), generator=generator)[: self.settings.num_recall_items]
        self.student.recall.write(keys=rows[items], values=rows[items])
        positions_per_image = standard.shape[-2] * standard.shape[-1]
        return ItemOrigins(items // positions_per_image, items % positions_per_image)


class Clustered(Goodpart):
    """A memory of cluster centres."""

    def fill(self, standard: Tensor, valid: Tensor, generator: torch.Generator) -> ItemOrigins:
        """Fill the memory with cluster centres; items have no origin."""
        rows = standard.movedim(1, -1).flatten(0, 2)
        some = rows[torch.randperm(len(rows), generator=generator)[: self.settings.num_candidates]].numpy()
        seed = int(torch.randint(2**31, (1,), generator=generator))
        means = MiniBatchKMeans(
            self.settings.num_recall_items, batch_size=8192, max_iter=20, n_init=1, random_state=seed
        )
        centres = torch.from_numpy(means.fit(some).cluster_centers_)
        self.student.recall.write(keys=centres, values=centres)
        return nowhere(len(centres))


class AbsoluteMemory(Goodpart):
    """A memory that does not know how far good parts usually are."""

    def train(self, exemplars: FeatureDataset, generator: torch.Generator) -> None:
        """As ``Goodpart``'s, with this change."""
        self.student.recall.usual_distances.fill_(1.0)


class Absolute(Goodpart):
    """Distances as they are, whatever is usual at a position."""

    def train(self, exemplars: FeatureDataset, generator: torch.Generator) -> None:
        """As ``Goodpart``'s, with this change."""
        super().learned(exemplars, generator)
        self.student.recall.usual_distances.fill_(1.0)
        for module in (self.student.first, *self.student.later):
            nn.init.zeros_(module.usual.weight)
            nn.init.zeros_(module.usual.bias)


@dataclass(frozen=True)
class Change:
    """One change from the default."""

    settings: tuple[str, ...] = ()
    method: type[Goodpart] = Goodpart
    student: type[Student] = Student
    teacher: str = "efficientnet_lite0"
    size: int = 256
    max_train: int | None = None


def setting(*assignments: str) -> Change:
    """A change of settings alone."""
    return Change(assignments)


MEMORY: dict[str, Change] = {
    "default": Change(),
    "50 items": setting("num_recall_items=50"),
    "1,000 items": setting("num_recall_items=1000"),
    "8,000 items": setting("num_recall_items=8000", "num_candidates=120000"),
    "filled with noise, taught": Change(method=NoisyTaught),
    "filled at random": Change(method=Drawn),
    "filled with cluster centres": Change(method=Clustered),
    "taught": Change(method=Taught),
    "taught, values kept": Change(("memory.learn_values=false",), method=Taught),
    "taught without L_NM": Change(("memory.normality_weight=0",), method=Taught),
    "taught without L_orth": Change(("memory.orthogonality_weight=0",), method=Taught),
    "absolute distances": Change(method=AbsoluteMemory),
    "regularisation 0 (cosine)": setting("regularisation=0"),
    "regularisation 0.3": setting("regularisation=0.3"),
    "regularisation 3": setting("regularisation=3"),
    "regularisation 100 (squared distance)": setting("regularisation=100"),
    "temperature 0.001": setting("temperature=0.001"),
    "temperature 0.01": setting("temperature=0.01"),
    "temperature 0.05": setting("temperature=0.05"),
    "1 item read": setting("num_read_items=1"),
    "16 items read": setting("num_read_items=16"),
    "teacher lite1": Change(teacher="efficientnet_lite1"),
    "teacher lite2": Change(teacher="efficientnet_lite2"),
    "192 px": Change(size=192),
    "320 px": Change(size=320),
    "384 px": Change(size=384),
    "10 training images": Change(max_train=10),
    "50 training images": Change(max_train=50),
    "200 training images": Change(max_train=200),
}
STUDENT: dict[str, Change] = {
    "default": Change(),
    "no memory": Change(method=Untaught, student=WithoutMemory),
    "recall only": Change(student=WithoutAdaptive),
    "adaptive only": Change(method=Untaught, student=WithoutRecall),
    "absolute distances": Change(method=Absolute),
    "strides 16": setting("strides=[16]"),
    "strides 16, 8": setting("strides=[16,8]"),
    "strides 16, 8, 4, 32": setting("strides=[16,8,4,32]"),
    "merge: replacement": Change(student=merging(Replacing)),
    "merge: concatenation": Change(student=merging(Concatenating)),
    "hardness 0": setting("learning.hardness=0"),
    "regularisation 3": setting("regularisation=3"),
}
# The comparison alone: what one training learned, judged by other settings.
SCORE: dict[str, tuple[str, ...]] = {
    "default": (),
    "later scales count 0": ("later_score_weight=0",),
    "later scales count 0.5": ("later_score_weight=0.5",),
    "later scales count 1": ("later_score_weight=1",),
    "maximum": ("top_share=0.0001",),
    "top 0.3 %": ("top_share=0.003",),
    "top 1 %": ("top_share=0.01",),
    "top 10 %": ("top_share=0.1",),
}
GROUPS = ("memory", "student", "score")


def main() -> None:
    """Compute what is missing, keep each row, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"the folder {DEVELOPMENT}")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=GROUPS)
    parser.add_argument("--out", type=Path, default=Path("bench/results/ablations.json"))
    given = parser.parse_args()
    if given.data.name != DEVELOPMENT:
        parser.error(f"designs are chosen on {DEVELOPMENT} alone")
    torch.set_num_threads(given.threads)
    for seed in range(given.seeds):
        study = Study(given.data, given.out, seed)
        for group, run in (("memory", study.memory), ("score", study.score), ("student", study.student)):
            if group in given.groups:
                run()
    print(tables(read_rows(given.out)))


@dataclass(frozen=True)
class Study:
    """One seed of all groups."""

    folder: Path
    out: Path
    seed: int

    def memory(self) -> None:
        """Changes of the memory, on the memory alone."""
        for name, change in MEMORY.items():
            self.keep("memory", name, lambda change=change: self.evaluate(change, "quick=true"))

    def student(self) -> None:
        """Changes of the student."""
        for name, change in STUDENT.items():
            self.keep("student", name, lambda change=change: self.evaluate(change, f"learning.num_steps={NUM_STEPS}"))

    def score(self) -> None:
        """Changes of the score, on one training of the default."""
        if all(self.is_there("score", name) for name in SCORE):
            return
        evidence = load_evidence(self.folder, teacher=Change().teacher, size=Change().size)
        method = Goodpart(read_train_settings(None))
        method.fit(evidence.train, seed=self.seed)
        for name, assignments in SCORE.items():
            method.compared_by(read_train_settings(None, assignments), evidence.train)
            self.keep("score", name, lambda: figures(method.judge(evidence.test), evidence))

    def evaluate(self, change: Change, assignment: str) -> dict[str, float]:
        """Return the figures of one change."""
        sides = (f"height={change.size}", f"width={change.size}")
        settings = read_train_settings(None, [f"teacher={change.teacher}", *sides, assignment, *change.settings])
        evidence = load_evidence(self.folder, teacher=change.teacher, size=change.size)
        method = change.method(settings, change.student)
        images = np.random.default_rng(self.seed).permutation(len(evidence.good))[: change.max_train]
        method.fit(select(evidence.train, np.sort(images)), seed=self.seed)
        return figures(method.judge(evidence.test), evidence)

    def keep(self, group: str, name: str, compute: Callable[[], dict[str, float]]) -> None:
        """Compute a row and keep it, unless it is there."""
        if self.is_there(group, name):
            return
        row = {"group": group, "change": name, "dataset": DEVELOPMENT, "role": "development", "seed": self.seed}
        keep(self.out, {**row, **compute()})
        print(group, name, self.seed, flush=True)

    def is_there(self, group: str, name: str) -> bool:
        """Whether a row was kept before."""
        wanted = (group, name, self.seed)
        return any((row["group"], row["change"], row["seed"]) == wanted for row in read_rows(self.out))


def tables(rows: list[Row]) -> str:
    """A table a group, a row a change, mean and spread over the seeds."""
    return "\n\n".join(table(group, [row for row in rows if row["group"] == group]) for group in GROUPS)


def table(group: str, rows: list[Row]) -> str:
    """One group's table, as Markdown."""
    changes: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        changes[row["change"]].append(row)
    lines = [
        f"| {group} | seeds | {' | '.join(HEADINGS[name] for name in SHOWN)} |",
        "| --- " * (len(SHOWN) + 2) + "|",
    ]
    for name, some in changes.items():
        cells = " | ".join(mean_and_spread([row[shown] for row in some]) for shown in SHOWN)
        lines.append(f"| {name} | {len(some)} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
