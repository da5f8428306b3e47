"""Networks of a few channels, for tests that need no real teacher."""

import torch
from torch import nn

from model.compare import CompareSpec
from model.student import Student, StudentSpec

# The memory's scale, a coarser one that it holds as well, and a finer one.
THREE_SCALES = StudentSpec(
    channels=(6, 5, 4),
    strides=(16, 32, 8),
    hidden_channels=(8, 7, 5),
    bottleneck_channels=8,
    query_channels=9,
    num_stored=2,
    num_recall_items=7,
    num_read_items=4,
    num_adaptive_items=3,
    temperature=0.1,
    regularisation=0.5,
)
# The memory's scale and a finer one.
TWO_SCALES = StudentSpec(
    channels=(6, 4),
    strides=(16, 8),
    hidden_channels=(8, 5),
    bottleneck_channels=8,
    query_channels=7,
    num_stored=1,
    num_recall_items=9,
    num_read_items=3,
    num_adaptive_items=3,
    temperature=0.1,
    regularisation=0.5,
)


def make_compare_spec(spec, *, map_size=(8, 8), smoothing_sigma=0.5, top_shares=(0.05, 0.2)):
    """Return the shape of the comparison that belongs to a student."""
    num_scales = len(spec.channels)
    return CompareSpec(
        map_size=map_size,
        smoothing_sigma=smoothing_sigma,
        top_shares=top_shares,
        num_stored=spec.num_stored,
        num_recalled=num_scales if spec.extracts else spec.num_stored,
        num_extracted=num_scales if spec.extracts else 0,
        regularisation=spec.regularisation,
    )


def make_student(spec=THREE_SCALES, *, seed=0):
    """Return a student whose standardisers are no identities, so that what skips one is found."""
    torch.manual_seed(seed)
    student = Student(spec).eval()
    for standardiser in (*student.standardisers, student.view.standardiser):
        standardiser.mean.normal_()
        standardiser.spread.uniform_(0.5, 2)
    return student


class SmallTeacher(nn.Module):
    """Random filters of the channels and strides of a student."""

    def __init__(self, spec):
        super().__init__()
        self.filters = nn.ModuleList(
            nn.Conv2d(3, channels, stride, stride=stride)
            for channels, stride in zip(spec.channels, spec.strides, strict=True)
        )
        self.requires_grad_(requires_grad=False)

    def forward(self, pixels):
        planes = pixels.permute(0, 3, 1, 2).float() / 64
        return tuple(one(planes) for one in self.filters)
