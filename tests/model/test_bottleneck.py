import pytest
import torch
from torch import nn

from model.bottleneck import OneClassBottleneck, convolve
from model.fusion import resize


def list_convolutions(module):
    return [one for one in module.modules() if isinstance(one, nn.Conv2d)]


def make_bottleneck(strides, *, width=8, num_out=3):
    torch.manual_seed(0)
    return OneClassBottleneck((4,) * len(strides), strides, width=width, num_out=num_out).eval()


def make_features(strides, *, side=64, batch=1):
    return tuple(torch.randn(batch, 4, side // stride, side // stride) for stride in strides)


@pytest.mark.parametrize("strides", [(16,), (16, 8), (16, 32), (16, 32, 8), (8, 16, 32), (32, 8)])
def test_the_feature_has_the_first_scales_size(strides):
    features = make_features(strides, batch=2)
    assert make_bottleneck(strides)(*features).shape == (2, 3, *features[0].shape[-2:])


def test_odd_sizes_are_grown_back_exactly():
    features = (torch.randn(1, 4, 5, 7), torch.randn(1, 4, 3, 4), torch.randn(1, 4, 10, 14))
    assert make_bottleneck((16, 32, 8))(*features).shape == (1, 3, 5, 7)


def test_each_scale_is_halved_until_it_has_the_coarsest_stride():
    bottleneck = make_bottleneck((16, 32, 8))
    strides = [[one.stride[0] for one in list_convolutions(shrink)] for shrink in bottleneck.shrink]
    assert strides == [[2], [1], [2, 2]]
    kernels = [[one.kernel_size[0] for one in list_convolutions(shrink)] for shrink in bottleneck.shrink]
    assert kernels == [[3], [1], [3, 3]]
    assert [list_convolutions(shrink)[0].in_channels for shrink in bottleneck.shrink] == [4, 4, 4]


def test_what_passes_has_half_the_size_of_the_coarsest_scale():
    bottleneck = make_bottleneck((16, 32, 8))
    sizes = []
    bottleneck.compress.register_forward_hook(lambda *given: sizes.append(given[-1].shape))
    bottleneck(*make_features((16, 32, 8)))
    assert sizes == [(1, 8, 1, 1)]


def test_the_width_halves_with_each_doubling_down_to_that_of_the_output():
    bottleneck = make_bottleneck((8, 16, 32), width=32, num_out=3)
    widths = [(one.in_channels, one.out_channels) for one in list_convolutions(bottleneck.grow)]
    assert widths == [(32, 16), (16, 8), (8, 3)]
    narrow = make_bottleneck((8, 16, 32), width=32, num_out=12)
    assert [one.out_channels for one in list_convolutions(narrow.grow)] == [16, 12, 12]


def test_the_forward_pass_is_shrink_compress_and_grow_step_by_step():
    """Sizes written out for a first scale of 4 x 4: shrunk to 2 x 2, compressed to 1 x 1, grown to 2 x 2 and 4 x 4."""
    bottleneck, features = make_bottleneck((16, 32, 8)), make_features((16, 32, 8))
    shrunk = [shrink(scale) for shrink, scale in zip(bottleneck.shrink, features, strict=True)]
    assert {tuple(one.shape[-2:]) for one in shrunk} == {(2, 2)}
    hidden = bottleneck.compress(torch.cat(shrunk, dim=1))
    for size, grow in zip(((2, 2), (4, 4)), bottleneck.grow, strict=True):
        hidden = grow(resize(hidden, size))
    assert torch.equal(bottleneck(*features), hidden)


def test_every_scale_decides_what_passes():
    bottleneck, features = make_bottleneck((16, 32, 8)), make_features((16, 32, 8))
    before = bottleneck(*features)
    for scale in range(3):
        changed = tuple(feature + 5 * (k == scale) for k, feature in enumerate(features))
        assert not torch.allclose(before, bottleneck(*changed))


def test_a_convolution_keeps_the_size_or_halves_it_and_nothing_negative_passes():
    torch.manual_seed(0)
    for kernel_size, stride, size in ((3, 1, 6), (1, 1, 6), (3, 2, 3)):
        block = convolve(2, 5, kernel_size=kernel_size, stride=stride)
        found = block(torch.randn(3, 2, 6, 6))
        assert found.shape == (3, 5, size, size)
        assert found.min() == 0
        assert block[0].bias is None
