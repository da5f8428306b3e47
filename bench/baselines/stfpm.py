"""STFPM (Wang et al., BMVC 2021): a student of the teacher's architecture, from noise, imitates it on good images.

AdamW for the paper's SGD at a rate of 0.4, by which so few steps as a small machine grants learn nothing.
"""

import torch
from torch import Tensor
from torch.nn import functional

from baselines.method import Features, Judged, enlarge, parameters_bytes, top_mean
from model.teacher import Teacher, make_network
from model.teacher_specs import get_teacher_spec

PIXELS = 1
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 1e-4
BATCH_NORM_MOMENTUM = 0.1
BATCH_SIZE = 8


class STFPM:
    """Strides 8 and 16 (the paper's third, 4, lowers both figures here); features of unit length; maps multiplied."""

    def __init__(
        self,
        *,
        teacher: str,
        strides: tuple[int, ...] = (8, 16),
        num_steps: int = 800,
        score_share: float = 0.0,
    ) -> None:
        self.teacher = teacher
        self.strides = strides
        self.num_steps = num_steps
        self.score_share = score_share
        self.student: Teacher | None = None

    def fit(self, train: Features, *, seed: int) -> None:
        """Train the student on pixels."""
        torch.manual_seed(seed)
        self.student = Teacher(self.teacher, make_network(get_teacher_spec(self.teacher)), strides=self.strides)
        network = self.student.network.train().requires_grad_()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = BATCH_NORM_MOMENTUM  # the teacher's own is for schedules of a million steps
        optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        for _ in range(self.num_steps):
            images = torch.randint(len(train[PIXELS]), (BATCH_SIZE,))
            batch = {stride: train[stride][images] for stride in (PIXELS, *self.strides)}
            loss = torch.stack([one.mean() for one in self.distances(batch)]).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        network.eval()

    def distances(self, batch: Features) -> list[Tensor]:
        """Half the squared distance of unit vectors, at every position of every scale."""
        pixels = self.student.normalise(batch[PIXELS]).contiguous(memory_format=torch.channels_last)
        seen = self.student.network.forward_taps(pixels, self.student.taps)
        return [
            0.5 * (functional.normalize(batch[stride]) - functional.normalize(scale)).square().sum(1)
            for stride, scale in zip(self.strides, seen, strict=True)
        ]

    @torch.no_grad()
    def judge(self, features: Features) -> Judged:
        """The product of all scales' maps."""
        pieces = []
        for first in range(0, len(features[PIXELS]), BATCH_SIZE):
            batch = {stride: features[stride][first : first + BATCH_SIZE] for stride in (PIXELS, *self.strides)}
            pieces.append(torch.stack([enlarge(one) for one in self.distances(batch)]).prod(0))
        maps = torch.cat(pieces)
        return Judged(top_mean(maps, share=self.score_share), maps)

    def size_bytes(self) -> int:
        """The student."""
        return parameters_bytes(self.student)
