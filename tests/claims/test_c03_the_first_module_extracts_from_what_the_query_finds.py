import torch


def test_the_first_feature_starts_as_what_was_recalled(make_student, features):
    student = make_student(0)
    recalled = student.recall(student.fusion(*student.standardise(features)))
    extraction = student.extract(recalled, [(8, 10)])
    assert torch.equal(extraction.features[0], recalled.features)
    assert torch.equal(extraction.expected_distances[0], recalled.expected_distance)


def test_images_that_recall_the_same_have_the_same_features(make_student, features):
    """Nothing of the image but what is recalled reaches any scale: with one item, all images look alike."""
    student = make_student(0)
    student.recall.keys.data[:] = student.recall.keys.data[0]
    student.recall.values.data[:] = student.recall.values.data[0]
    for scale in student(*features).features:
        torch.testing.assert_close(scale[0], scale[1])


def test_items_hidden_from_an_image_are_not_recalled(make_student, features):
    student = make_student(0)
    hidden = torch.ones(2, 7, dtype=torch.bool)
    hidden[:, 3] = False
    recalled = student.recall(features[0], hidden_items=hidden).features
    expected = student.recall.values[3][None, :, None, None].expand_as(recalled)
    torch.testing.assert_close(recalled, expected)
