import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from model.teacher import Teacher, WrongArchitecture, WrongTap, find_packaged_weights, load_network, make_network
from model.teacher_specs import TEACHERS, get_teacher_spec

LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
TRANSFORMERS = ("dinov2_vits14", "dinov2_vitb14")
RESNETS = ("resnet18", "resnet34", "resnet50", "wide_resnet50_2")
PALACE = 698


def make_state(name):
    return torch.load(find_packaged_weights(name), weights_only=True)  # the package's own file


def photograph(name, size):
    """The middle square of one of scikit-learn's photographs, uint8 (1, size, size, 3)."""
    picture = Image.fromarray(load_sample_image(name))
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(square)[None].copy())


@pytest.mark.parametrize("name", LITES)
def test_the_photograph_of_a_chinese_palace_is_classified_as_one(name):
    """Which proves weights, normalisation and padding together."""
    state = make_state(name)
    classifier = load_network(name, state).eval()
    teacher = Teacher.with_weights(name, state, strides=(16,))
    with torch.no_grad():
        logits = classifier(teacher.normalise(photograph("china.jpg", 224)))
    assert logits.argmax().item() == PALACE


@pytest.mark.parametrize("name", LITES)
def test_features_have_the_registrys_channels_at_every_stride(name):
    strides = tuple(TEACHERS[name].taps)
    teacher = Teacher.with_weights(name, make_state(name), strides=strides)
    features = teacher(torch.zeros(2, 64, 96, 3, dtype=torch.uint8))
    assert [tuple(scale.shape) for scale in features] == [
        (2, TEACHERS[name].taps[stride].channels, 64 // stride, 96 // stride) for stride in strides
    ]


@pytest.mark.parametrize("name", RESNETS)
def test_a_checkpoint_of_torchvisions_keys_loads_and_is_tapped(name):
    torch.manual_seed(0)
    state = make_network(get_teacher_spec(name)).state_dict()
    teacher = Teacher.with_weights(name, state, strides=(16, 8))
    features = teacher(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    channels = [TEACHERS[name].taps[stride].channels for stride in (16, 8)]
    assert [tuple(scale.shape) for scale in features] == [(1, channels[0], 4, 4), (1, channels[1], 8, 8)]


# The number of parameters that torchvision's documentation gives for each network.
PUBLISHED_PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "wide_resnet50_2": 68_883_240,
}


@pytest.mark.parametrize("name", RESNETS)
def test_a_resnet_has_the_published_number_of_parameters(name):
    network = make_network(get_teacher_spec(name))
    assert sum(parameter.numel() for parameter in network.parameters()) == PUBLISHED_PARAMETERS[name]


def test_a_resnets_keys_are_torchvisions():
    keys = set(make_network(get_teacher_spec("resnet50")).state_dict())
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv3.weight",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.running_var",
        "layer4.2.bn3.num_batches_tracked",
        "fc.bias",
    } <= keys


def test_a_checkpoint_of_another_network_is_refused_with_what_differs():
    state = make_network(get_teacher_spec("resnet18")).state_dict()
    with pytest.raises(WrongArchitecture, match=r"not of resnet34: missing keys: layer1\.2"):
        load_network("resnet34", state)
    with pytest.raises(WrongArchitecture, match=r"different shapes: .*layer1\.0\.conv1\.weight is"):
        load_network("wide_resnet50_2", make_network(get_teacher_spec("resnet50")).state_dict())


def test_a_stride_without_a_tap_is_refused():
    with pytest.raises(ValueError, match="stride 2; it has 4, 8, 16, 32"):
        Teacher.with_weights("efficientnet_lite0", make_state("efficientnet_lite0"), strides=(2,))


def test_a_teacher_stays_frozen_in_training_mode():
    teacher = Teacher.with_weights("efficientnet_lite0", make_state("efficientnet_lite0"), strides=(8,))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.train()
    teacher(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_another_block_of_the_same_stride_can_be_tapped():
    name = "efficientnet_lite0"
    teacher = Teacher.with_weights(name, make_state(name), strides=(16,), taps={16: 7})
    (feature,) = teacher(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    assert teacher.channels == (80,)
    assert tuple(feature.shape) == (1, 80, 4, 4)


@pytest.mark.parametrize(("tap", "message"), [(3, "has stride 8, not 16"), (99, "is not there")])
def test_a_block_that_does_not_fit_its_stride_is_refused(tap, message):
    name = "efficientnet_lite0"
    with pytest.raises(WrongTap, match=message):
        Teacher.with_weights(name, make_state(name), strides=(16,), taps={16: tap})


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_vision_transformer_has_features_at_every_stride(name):
    torch.manual_seed(0)
    state = make_network(get_teacher_spec(name)).state_dict()
    strides = tuple(TEACHERS[name].taps)
    teacher = Teacher.with_weights(name, {**state, "mask_token": torch.zeros(1, 384)}, strides=strides)
    features = teacher(torch.zeros(1, 64, 96, 3, dtype=torch.uint8))
    channels = teacher.channels[0]
    assert [tuple(scale.shape) for scale in features] == [(1, channels, 64 // s, 96 // s) for s in strides]


def test_a_vision_transformers_positions_are_the_trained_ones_at_the_trained_grid():
    torch.manual_seed(0)
    network = make_network(get_teacher_spec("dinov2_vits14"))
    torch.nn.init.normal_(network.pos_embed)
    torch.testing.assert_close(network.resize_positions((37, 37)), network.pos_embed)


def test_a_vision_transformer_reads_a_patch_where_it_is():
    """The tokens of a changed patch change most at its own place, at each stride."""
    torch.manual_seed(0)
    state = make_network(get_teacher_spec("dinov2_vits14")).state_dict()
    teacher = Teacher.with_weights("dinov2_vits14", state, strides=(16, 32, 8))
    pixels = torch.randint(0, 255, (1, 128, 128, 3), dtype=torch.uint8)
    changed = pixels.clone()
    changed[:, 64:96, 32:64] = 255
    for before, after, stride in zip(teacher(pixels), teacher(changed), teacher.strides, strict=True):
        difference = (after - before).square().sum(1)[0]
        row, column = divmod(difference.argmax().item(), difference.shape[1])
        assert 64 <= row * stride < 96
        assert 32 <= column * stride < 64
