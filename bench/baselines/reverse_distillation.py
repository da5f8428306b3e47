"""RD4AD (Deng and Li, CVPR 2022): a decoder rebuilds the teacher's features from a one-class bottleneck.

The student without a memory. The paper's decoder mirrors a ResNet; here it has plain blocks of the teacher's widths.
What differs from the paper's settings suits this teacher better on the development set: strides 8, 16 and 32 for 4, 8
and 16, features standardised a channel, a lower rate, and the mean of the highest positions for the maximum.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.method import Features, Judged, enlarge, parameters_bytes, smooth, top_mean
from model.standardise import Standardiser
from model.student import make_convolution

BOTTLENECK_CHANNELS = 256
LEARNING_RATE, BETAS = 2e-3, (0.5, 0.999)
BATCH_SIZE = 16


def make_downsampling(num_in: int, num_out: int) -> nn.Sequential:
    """Return a 3 x 3 convolution of stride 2."""
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU()
    )


class Decoder(nn.Module):
    """Multi-scale fusion, one-class embedding at half the coarsest size, and a decoder up through the scales."""

    def __init__(self, channels: dict[int, int]) -> None:
        super().__init__()
        self.strides = sorted(channels, reverse=True)  # the coarsest first
        coarsest = self.strides[0]
        width = channels[coarsest]
        self.bring = nn.ModuleDict(
            {
                str(stride): nn.Sequential(
                    *(
                        make_downsampling(channels[stride] if i == 0 else width, width)
                        for i in range((coarsest // stride).bit_length() - 1)
                    )
                )
                for stride in self.strides
            }
        )
        fused = width * len(self.strides)
        self.embed = nn.Sequential(
            make_convolution(fused, width, kernel_size=1),
            make_downsampling(width, BOTTLENECK_CHANNELS),
            make_convolution(BOTTLENECK_CHANNELS, BOTTLENECK_CHANNELS),
        )
        widths = [BOTTLENECK_CHANNELS, *(max(48, channels[stride]) for stride in self.strides)]
        self.grow = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(a, b, 2, stride=2, bias=False), nn.BatchNorm2d(b), nn.ReLU(), make_convolution(b, b)
            )
            for a, b in itertools.pairwise(widths)
        )
        self.extract = nn.ModuleList(
            nn.Conv2d(b, channels[stride], 1) for b, stride in zip(widths[1:], self.strides, strict=True)
        )

    def forward(self, features: Features) -> Features:
        """Teacher features by stride to student features by stride."""
        fused = torch.cat([self.bring[str(stride)](features[stride]) for stride in self.strides], dim=1)
        hidden = self.embed(fused)
        reconstruction: Features = {}
        for grow, extract, stride in zip(self.grow, self.extract, self.strides, strict=True):
            hidden = grow(hidden)
            reconstruction[stride] = extract(hidden)
        return reconstruction


class ReverseDistillation:
    """Plain cosine in loss and score, maps summed."""

    def __init__(
        self, *, strides: tuple[int, ...] = (8, 16, 32), num_steps: int = 600, score_share: float = 0.03
    ) -> None:
        self.strides = strides
        self.num_steps = num_steps
        self.score_share = score_share
        self.standardisers: dict[int, Standardiser] = {}
        self.decoder: Decoder | None = None

    def fit(self, train: Features, *, seed: int) -> None:
        """Train the decoder."""
        torch.manual_seed(seed)
        everywhere = torch.ones(len(train[self.strides[0]]), 1, 1)
        for stride in self.strides:
            valid = everywhere.expand(-1, *train[stride].shape[-2:])
            self.standardisers[stride] = Standardiser.fit(train[stride], valid)
        train = self.standardise(train)
        self.decoder = Decoder({stride: scale.shape[1] for stride, scale in train.items()}).train()
        optimiser = torch.optim.Adam(self.decoder.parameters(), lr=LEARNING_RATE, betas=BETAS)
        num_images = len(train[self.strides[0]])
        for _ in range(self.num_steps):
            images = torch.randint(num_images, (BATCH_SIZE,))
            batch = {stride: scale[images] for stride, scale in train.items()}
            loss = torch.stack([one.mean() for one in self.distances(batch).values()]).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        self.decoder.eval()

    def standardise(self, features: Features) -> Features:
        """Return the used scales, with mean 0 and spread 1 in each channel."""
        return {stride: standardise(features[stride]) for stride, standardise in self.standardisers.items()}

    def distances(self, features: Features) -> dict[int, Tensor]:
        """1 - cos at every position of every scale."""
        reconstruction = self.decoder(features)
        return {s: 1 - functional.cosine_similarity(features[s], reconstruction[s], dim=1) for s in self.strides}

    @torch.no_grad()
    def judge(self, features: Features) -> Judged:
        """Maps of all scales, enlarged and summed."""
        pieces = []
        for first in range(0, len(features[self.strides[0]]), BATCH_SIZE):
            batch = self.standardise({s: features[s][first : first + BATCH_SIZE] for s in self.strides})
            pieces.append(torch.stack([enlarge(one) for one in self.distances(batch).values()]).sum(0))
        maps = smooth(torch.cat(pieces))
        return Judged(top_mean(maps, share=self.score_share), maps)

    def size_bytes(self) -> int:
        """The decoder."""
        return parameters_bytes(self.decoder)
