"""Vision transformers of DINOv2 (Oquab et al., 2023), names as in the published weights.

Every block has one feature a patch, so all strides come from one grid. The image is resized so that a patch of 14
pixels covers 16 pixels of the input, and features of stride 8 and 32 are interpolated and averaged from that grid.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from model.teacher_specs import GRID_STRIDE

PATCH_PX = 14
# The weights were trained at 518 pixels.
TRAINED_GRID = 37
HEAD_CHANNELS = 64


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_heads = channels // HEAD_CHANNELS
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch tokens channels"]:
        """Return what each token reads from all."""
        split = torch.unflatten(self.qkv(tokens), -1, (3, self.num_heads, HEAD_CHANNELS)).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)  # (batch, heads, tokens, channels of a head)
        read = functional.scaled_dot_product_attention(query, key, value)
        joined: Tensor = self.proj(read.transpose(1, 2).flatten(2))
        return joined


class FeedForward(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, tokens: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch tokens channels"]:
        """Transform each token by itself."""
        transformed: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return transformed


class LayerScale(nn.Module):
    """A learned factor a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, tokens: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch tokens channels"]:
        """Return scaled tokens."""
        return tokens * self.gamma


class TransformerBlock(nn.Module):
    """Attention and feed-forward layers, each after a layer norm and added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = Attention(channels)
        self.ls1 = LayerScale(channels)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = FeedForward(channels)
        self.ls2 = LayerScale(channels)

    def forward(self, tokens: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch tokens channels"]:
        """Return the block's tokens."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        scaled: Tensor = self.ls2(self.mlp(self.norm2(tokens)))
        return tokens + scaled


class PatchEmbedding(nn.Module):
    """One token a patch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, PATCH_PX, stride=PATCH_PX)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        """Return the tokens on their grid."""
        embedded: Tensor = self.proj(pixels)
        return embedded


class VisionTransformer(nn.Module):
    """The whole network, so that published weights load strictly."""

    def __init__(self, *, channels: int, num_blocks: int = 12) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_GRID**2, channels))
        self.patch_embed = PatchEmbedding(channels)
        self.blocks = nn.ModuleList(TransformerBlock(channels) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    @property
    def tap_indices(self) -> range:
        """The indices of the blocks that can be tapped."""
        return range(len(self.blocks))

    def embed(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens channels"]:
        """Return the class token and one token a patch, with their positions."""
        grid = self.patch_embed(pixels)
        size = (grid.shape[-2], grid.shape[-1])
        # Not len(grid), which would fix the batch size of the exported graph.
        tokens = torch.cat([self.cls_token.expand(grid.shape[0], -1, -1), grid.flatten(2).mT], dim=1)
        return tokens + self.resize_positions(size)

    def resize_positions(self, size: tuple[int, int]) -> Float[Tensor, "1 tokens channels"]:
        """Return the position embedding at a grid of another size than the trained one."""
        first, others = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        trained = torch.unflatten(others.mT, -1, (TRAINED_GRID, TRAINED_GRID))
        resized = functional.interpolate(trained, size=size, mode="bicubic", align_corners=False)
        return torch.cat([first, resized.flatten(2).mT], dim=1)

    def forward_taps(self, pixels: Float[Tensor, "batch 3 height width"], taps: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the normalised patch features of blocks ``taps`` at stride 16, in the given order."""
        rows, columns = (side // GRID_STRIDE for side in pixels.shape[-2:])
        pixels = functional.interpolate(
            pixels, size=(rows * PATCH_PX, columns * PATCH_PX), mode="bilinear", align_corners=False
        )
        outputs: dict[int, Tensor] = {}
        tokens = self.embed(pixels)
        for index, block in enumerate(self.blocks[: max(taps) + 1]):
            tokens = block(tokens)
            if index in taps:
                outputs[index] = torch.unflatten(self.norm(tokens)[:, 1:].mT, -1, (rows, columns))
        return tuple(outputs[tap] for tap in taps)

    def truncate(self, last_tap: int) -> None:
        """Drop the blocks after ``last_tap``, which are not needed."""
        self.blocks = self.blocks[: last_tap + 1]
