import torch

from model.compare import Compare, CompareSpec

MAP_SIZE = (8, 10)


def comparison_for(student):
    compare = Compare(
        CompareSpec(map_size=MAP_SIZE, smoothing_sigma=0.5, top_share=0.1, regularisation=0.5),
        channels=student.spec.channels,
    ).eval()
    for own, learned in zip(compare.standardisers, student.standardisers, strict=True):
        own.load_state_dict(learned.state_dict())
    return compare


def remember(student, features):
    """Fill a student's memory with every position of one product's first scale."""
    positions = features[0].movedim(1, -1).flatten(0, 2)
    items = positions[: student.recall.num_items]
    student.recall.write(keys=items, values=items)


def test_a_student_has_one_feature_map_per_teacher_feature_map_of_the_same_shape(make_student, features):
    reconstruction = make_student(0)(*features)
    assert [scale.shape for scale in reconstruction.features] == [scale.shape for scale in features]


def test_a_student_says_at_every_position_how_far_good_parts_usually_are(make_student, features):
    usual = make_student(0)(*features).expected_distances
    assert [scale.shape for scale in usual] == [(2, 4, 5), (2, 8, 10)]
    assert all((scale > 0).all() for scale in usual)


def test_each_products_own_student_finds_its_parts_ordinary_and_the_others_not(make_student):
    """Two products, two students: what differs is only what each remembers."""
    generator = torch.Generator().manual_seed(1)
    kinds = [5 * torch.randn(1, 6, 1, 1, generator=generator) for _ in range(2)]
    noise = [0.1 * torch.randn(1, 6, 4, 5, generator=generator) for _ in range(2)]
    parts = [(kind + rest, torch.zeros(1, 4, 8, 10)) for kind, rest in zip(kinds, noise, strict=True)]
    students = [make_student(0), make_student(0)]
    for student, part in zip(students, parts, strict=True):
        remember(student, part)
    scores = torch.empty(2, 2)
    with torch.no_grad():
        for i, student in enumerate(students):
            for j, part in enumerate(parts):
                reconstruction = student(*part)
                everywhere = torch.ones(1, *MAP_SIZE)
                answer = comparison_for(student)(
                    part, reconstruction.features, reconstruction.expected_distances, everywhere
                )
                scores[i, j] = answer.scale_scores[0, 0]
    own, other = scores.diagonal(), scores.flip(1).diagonal()
    assert (other > 10 * own.clamp_min(1e-4)).all()


def test_a_scale_is_compared_with_itself_alone(make_student, features):
    student = make_student(0)
    compare = comparison_for(student)
    with torch.no_grad():
        reconstruction = student(*features).features
        before = compare.distances(features, reconstruction)
        after = compare.distances((features[0], features[1] + 1), reconstruction)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])
