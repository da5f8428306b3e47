import pytest
import torch

from training.fit.memory import FeatureDataset, fill_memory, fit_expected_distances

EVERYWHERE = torch.ones(1, 8, 10)


def make_part(kind, seed):
    """One part of a product: everywhere the same features but for noise."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((6, 4, 6), (5, 2, 3), (4, 8, 12))
    return tuple(
        value + 0.1 * torch.randn(1, *size, generator=generator) for value, size in zip(kind, sizes, strict=True)
    )


def test_a_student_has_one_feature_map_per_teacher_feature_map_of_the_same_shape(make_student, features):
    reconstruction = make_student(0)(*features)
    assert [scale.shape for scale in reconstruction.extracted] == [scale.shape for scale in features]


def test_stored_scales_are_recalled_at_the_first_scales_size_and_others_at_their_own(make_student, features):
    reconstruction = make_student(0)(*features)
    assert [scale.shape for scale in reconstruction.recalled] == [(2, 6, 4, 6), (2, 5, 4, 6), (2, 4, 8, 12)]
    assert [scale.shape for scale in reconstruction.expected_distances] == [(2, 4, 6), (2, 4, 6), (2, 8, 12)]


def test_each_products_own_student_finds_its_parts_ordinary_and_the_others_not(make_student, make_compare):
    """Two products, two students: what differs is only what each remembers."""
    generator = torch.Generator().manual_seed(1)
    kinds = [[5 * torch.randn(1, c, 1, 1, generator=generator) for c in (6, 5, 4)] for _ in range(2)]
    students = [make_student(0), make_student(0)]
    for seed, (student, kind) in enumerate(zip(students, kinds, strict=True)):
        parts = [make_part(kind, 10 * seed + part) for part in range(3)]
        standard = student.standardise(tuple(torch.cat(scale) for scale in zip(*parts, strict=True)))
        valid = tuple(torch.ones(3, *scale.shape[-2:]) for scale in standard)
        origins = fill_memory(
            student, standard, valid[0], num_candidates=72, generator=torch.Generator().manual_seed(0)
        )
        fit_expected_distances(student, FeatureDataset(standard, valid, origins))
    scores = torch.empty(2, 2)
    with torch.no_grad():
        for i, student in enumerate(students):
            for j, kind in enumerate(kinds):
                part = make_part(kind, 99)
                scores[i, j] = make_compare(student)(part, student(*part), EVERYWHERE).scale_scores[0, 0]
    own, other = scores.diagonal(), scores.flip(1).diagonal()
    assert (other > own + 2).all()  # scores are logarithms


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_a_scale_is_compared_with_itself_alone(make_student, make_compare, features, scale):
    student = make_student(0)
    compare = make_compare(student)
    changed = tuple(feature + (k == scale) for k, feature in enumerate(features))
    with torch.no_grad():
        reconstruction = student(*features)
        before = compare.compute_distances(features, reconstruction)
        after = compare.compute_distances(changed, reconstruction)
    scales = [0, 1, 2, 0, 1, 2]  # the recalled maps, then the extracted ones
    for own, first, second in zip(scales, before, after, strict=True):
        assert torch.equal(first, second) is (own != scale)


def test_a_student_that_reconstructs_exactly_has_no_distance(make_student, make_compare, features):
    student = make_student(0)
    reconstruction = student(*features)._replace(extracted=features)
    for distance in make_compare(student).compute_distances(features, reconstruction)[3:]:
        torch.testing.assert_close(distance, torch.zeros_like(distance), atol=1e-5, rtol=0)
