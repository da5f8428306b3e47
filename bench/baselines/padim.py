"""PaDiM (Defard et al., ICPR 2021): a Gaussian of features at every position."""

import torch
from torch import Tensor

from baselines.method import Features, Judged, enlarge, smooth, top_mean
from model.fusion import resize

NUM_CHANNELS = 100
RIDGE = 0.01


class PaDiM:
    """Strides 4, 8 and 16 at the size of the first, 100 channels drawn, Mahalanobis distance."""

    def __init__(self, *, strides: tuple[int, ...] = (4, 8, 16), score_share: float = 0.0) -> None:
        self.strides = strides
        self.score_share = score_share
        self.channels = torch.empty(0)
        self.mean = torch.empty(0)
        self.whitening = torch.empty(0)

    def embed(self, features: Features) -> Tensor:
        """Return the drawn channels of all scales: (images, channels, h, w)."""
        first = features[self.strides[0]]
        size = (first.shape[-2], first.shape[-1])
        return torch.cat([resize(features[stride], size) for stride in self.strides], dim=1)[:, self.channels]

    def fit(self, train: Features, *, seed: int) -> None:
        """Mean and covariance of every position."""
        total = sum(train[stride].shape[1] for stride in self.strides)
        generator = torch.Generator().manual_seed(seed)
        self.channels = torch.randperm(total, generator=generator)[:NUM_CHANNELS].sort().values
        rows = self.embed(train).flatten(2).permute(2, 0, 1)  # (positions, images, channels)
        self.mean = rows.mean(1, keepdim=True)
        whitening = []
        for position in rows - self.mean:
            covariance = position.mT @ position / (len(position) - 1) + RIDGE * torch.eye(position.shape[1])
            whitening.append(torch.linalg.inv(torch.linalg.cholesky(covariance)))
        self.whitening = torch.stack(whitening)

    def judge(self, features: Features) -> Judged:
        """Mahalanobis distances."""
        maps = [
            self.distances({stride: scale[i : i + 16] for stride, scale in features.items()})
            for i in range(0, len(features[self.strides[0]]), 16)
        ]
        smoothed = smooth(enlarge(torch.cat(maps)))
        return Judged(top_mean(smoothed, share=self.score_share), smoothed)

    def distances(self, features: Features) -> Tensor:
        """Of one batch, (images, h, w)."""
        embedded = self.embed(features)
        centred = embedded.flatten(2).permute(2, 0, 1) - self.mean
        white = centred @ self.whitening.mT
        return torch.linalg.vector_norm(white, dim=2).mT.unflatten(1, embedded.shape[-2:])

    def size_bytes(self) -> int:
        """Means and inverse covariances."""
        return (self.mean.numel() + self.whitening.numel()) * 4
