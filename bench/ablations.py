"""What each part of the method is worth: one change from the default at a time, on the development set alone.

Every row is published split, two seeds, fewer steps than the default so that many rows can be had (``NUM_STEPS``; the
row ``default`` has them too). Rows are kept as they are done.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from evidence import chosen, evidence_of
from goodpart import Goodpart, nothing
from quality import DEVELOPMENT, figures, keep, mean_and_spread, rows_of
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from model.recall import Recalled
from model.student import FirstModule, Student, StudentSpec
from training.learn import Lesson, learn
from training.memory import Exemplars, Origins, recalled_by
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


def nowhere(num_items: int) -> Origins:
    """Items that are no image's."""
    return Origins(torch.full((num_items,), -1), torch.full((num_items,), -1))


class Untaught(Goodpart):
    """Without a recall memory there is nothing to teach or to tell usual distances of."""

    def filled(self, standard: Tensor, valid: Tensor, generator: torch.Generator) -> Origins:
        """Items that are no image's."""
        return nowhere(self.settings.num_recall_items)

    def learned(self, exemplars: Exemplars, generator: torch.Generator) -> None:
        """As ``Goodpart``'s, but for this change."""
        lesson = Lesson(exemplars, recalled_by(self.student, exemplars))
        learn(self.student, lesson, settings=self.settings.learning, generator=generator, on_step=nothing)
        self.student.eval()


class Noisy(Goodpart):
    """A memory filled with noise: what teaching alone makes of it."""

    def filled(self, standard: Tensor, valid: Tensor, generator: torch.Generator) -> Origins:
        """Which image each item is of, -1 for none."""
        noise = torch.randn(self.settings.num_recall_items, standard.shape[1], generator=generator)
        self.student.recall.write(keys=noise, values=noise)
        return nowhere(len(noise))


class Drawn(Goodpart):
    """A memory of positions drawn at random."""

    def filled(self, standard: Tensor, valid: Tensor, generator: torch.Generator) -> Origins:
        """Which image each item is of, -1 for none."""
        rows = standard.movedim(1, -1).flatten(0, 2)
        items = torch.randperm(len(rows), generator=generator)[: self.settings.num_recall_items]
        self.student.recall.write(keys=rows[items], values=rows[items])
        positions_per_image = standard.shape[-2] * standard.shape[-1]
        return Origins(items // positions_per_image, items % positions_per_image)


class Clustered(Goodpart):
    """A memory of cluster centres."""

    def filled(self, standard: Tensor, valid: Tensor, generator: torch.Generator) -> Origins:
        """Which image each item is of, -1 for none."""
        rows = standard.movedim(1, -1).flatten(0, 2)
        some = rows[torch.randperm(len(rows), generator=generator)[: self.settings.num_candidates]].numpy()
        seed = int(torch.randint(2**31, (1,), generator=generator))
        means = MiniBatchKMeans(
            self.settings.num_recall_items, batch_size=8192, max_iter=20, n_init=1, random_state=seed
        )
        centres = torch.from_numpy(means.fit(some).cluster_centers_)
        self.student.recall.write(keys=centres, values=centres)
        return nowhere(len(centres))


class Absolute(Goodpart):
    """Distances as they are, whatever is usual at a position."""

    def learned(self, exemplars: Exemplars, generator: torch.Generator) -> None:
        """As ``Goodpart``'s, but for this change."""
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


CHANGES: dict[str, Change] = {
    "default": Change(),
    "no memory": Change(method=Untaught, student=WithoutMemory),
    "recall only": Change(student=WithoutAdaptive),
    "adaptive only": Change(method=Untaught, student=WithoutRecall),
    "memory without a trained student": setting("quick=true"),
    "absolute distances": Change(method=Absolute),
    "50 items": setting("num_recall_items=50"),
    "1,000 items": setting("num_recall_items=1000"),
    "8,000 items": setting("num_recall_items=8000", "num_candidates=120000"),
    "filled with noise": Change(method=Noisy),
    "filled at random": Change(method=Drawn),
    "filled with cluster centres": Change(method=Clustered),
    "memory not taught": setting("memory.num_steps=0"),
    "values kept": setting("memory.learn_values=false"),
    "without L_NM": setting("memory.normality_weight=0"),
    "without L_orth": setting("memory.orthogonality_weight=0"),
    "regularisation 0 (cosine)": setting("regularisation=0"),
    "regularisation 0.3": setting("regularisation=0.3"),
    "regularisation 3": setting("regularisation=3"),
    "regularisation 100 (squared distance)": setting("regularisation=100"),
    "merge: replacement": Change(student=merging(Replacing)),
    "merge: concatenation": Change(student=merging(Concatenating)),
    "strides 16": setting("strides=[16]"),
    "strides 16, 8": setting("strides=[16,8]"),
    "strides 16, 8, 4, 32": setting("strides=[16,8,4,32]"),
    "temperature 0.001": setting("temperature=0.001"),
    "temperature 0.01": setting("temperature=0.01"),
    "temperature 0.05": setting("temperature=0.05"),
    "1 item read": setting("num_read_items=1"),
    "16 items read": setting("num_read_items=16"),
    "hardness 0": setting("learning.hardness=0"),
    "later scales count 0 in the score": setting("later_score_weight=0"),
    "later scales count 0.5": setting("later_score_weight=0.5"),
    "later scales count 1": setting("later_score_weight=1"),
    "score: top 0.3 %": setting("top_share=0.003"),
    "score: top 1 %": setting("top_share=0.01"),
    "score: maximum": setting("top_share=0.0001"),
    "1,000 steps": setting("learning.num_steps=1000"),
    "teacher lite1": Change(teacher="efficientnet_lite1"),
    "teacher lite2": Change(teacher="efficientnet_lite2"),
    "192 px": Change(size=192),
    "320 px": Change(size=320),
    "384 px": Change(size=384),
    "10 training images": Change(max_train=10),
    "50 training images": Change(max_train=50),
    "200 training images": Change(max_train=200),
}


def main() -> None:
    """Compute what is missing, keep each row, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"the folder {DEVELOPMENT}")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=list(CHANGES), choices=list(CHANGES), metavar="CHANGE")
    parser.add_argument("--out", type=Path, default=Path("bench/results/ablations.json"))
    given = parser.parse_args()
    if given.data.name != DEVELOPMENT:
        parser.error(f"designs are chosen on {DEVELOPMENT} alone")
    torch.set_num_threads(given.threads)
    for name in given.only:
        for seed in range(given.seeds):
            if not any(row["change"] == name and row["seed"] == seed for row in rows_of(given.out)):
                row = {"change": name, "dataset": DEVELOPMENT, "role": "development", "seed": seed}
                keep(given.out, {**row, **measured(CHANGES[name], given.data, seed=seed)})
    print_table(given.out)


def measured(change: Change, folder: Path, *, seed: int) -> dict[str, float]:
    """One change, one seed."""
    assignments = [
        f"learning.num_steps={NUM_STEPS}",
        f"teacher={change.teacher}",
        f"height={change.size}",
        f"width={change.size}",
        *change.settings,
    ]
    evidence = evidence_of(folder, teacher=change.teacher, size=change.size)
    method = change.method(read_train_settings(None, assignments), change.student)
    images = np.random.default_rng(seed).permutation(len(evidence.good))[: change.max_train]
    method.fit(chosen(evidence.train, np.sort(images)), seed=seed)
    return figures(method.judge(evidence.test), evidence)


def print_table(out: Path) -> None:
    """A row a change, mean and spread over the seeds."""
    groups = defaultdict(list)
    for row in rows_of(out):
        groups[row["change"]].append(row)
    print("| change | " + " | ".join(SHOWN) + " |\n|" + " --- |" * (len(SHOWN) + 1))
    for name, rows in groups.items():
        print(f"| {name} | " + " | ".join(mean_and_spread([row[shown] for row in rows]) for shown in SHOWN) + " |")


if __name__ == "__main__":
    main()
