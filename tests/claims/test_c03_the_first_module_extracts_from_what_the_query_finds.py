import torch


def test_what_the_memory_holds_decides_the_first_feature(make_student, features):
    student = make_student(0)
    before = student(*features).extracted[0]
    student.recall.values.data.normal_()
    assert not torch.allclose(before, student(*features).extracted[0])


def test_the_bottleneck_decides_the_first_feature_as_well(make_student, features):
    student = make_student(0)
    standard = student.standardise(features)
    recalled = student.recall(student.make_query(standard))
    before = student.extract(recalled, standard)[0]
    after = student.extract(recalled, tuple(scale + 1 for scale in standard))[0]
    assert not torch.allclose(before, after)


def test_all_later_scales_start_from_the_first_modules_hidden_feature(make_student, features):
    student = make_student(0)
    before = student(*features).extracted
    with torch.no_grad():
        student.first.join[1][0].weight.normal_()
    for scale, other in zip(before, student(*features).extracted, strict=True):
        assert not torch.allclose(scale, other)


def test_a_scale_that_is_not_stored_is_decoded_from_what_the_query_finds_alone(make_student, features):
    student = make_student(0)
    recalled = student.recall(student.make_query(student.standardise(features)))
    decoded, expected = student.decode(recalled, features)
    other_image = tuple(torch.randn_like(scale) for scale in features)
    again, expected_again = student.decode(recalled, other_image)
    assert [scale.shape for scale in decoded] == [features[2].shape]
    assert torch.equal(decoded[0], again[0])
    assert torch.equal(expected[0], expected_again[0])
    assert torch.equal(student(*features).recalled[2], decoded[0])


def test_items_hidden_from_an_image_are_not_recalled(make_student):
    student = make_student(0)
    hidden = torch.ones(2, 7, dtype=torch.bool)
    hidden[:, 3] = False
    recalled = student.recall(torch.randn(2, 9, 4, 6), hidden_items=hidden).features
    expected = student.recall.values[3].split((6, 5))
    for found, value in zip(recalled, expected, strict=True):
        torch.testing.assert_close(found, value[None, :, None, None].expand_as(found))


def test_a_hidden_item_is_not_read_at_any_temperature(make_student):
    student = make_student(0)
    memory = student.recall
    memory.temperature = 1e-6
    query = memory.keys[2].detach()[None, :, None, None]
    hidden = torch.zeros(1, 7, dtype=torch.bool)
    hidden[0, 2] = True
    assert 2 not in memory.read(query, hidden_items=hidden).items[0, 0]
