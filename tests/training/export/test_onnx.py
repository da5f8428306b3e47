"""The exported graphs against the networks, at a few channels."""

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from small_networks import THREE_SCALES, make_compare_spec, make_student
from torch import nn

from app.inference.detector import ITEMS, WEIGHTS
from model.compare import Compare
from training.errors import TrainingError
from training.export.onnx import (
    OPSET,
    TOLERANCES,
    CompareGraph,
    StudentGraph,
    check_parity,
    compare_with_networks,
    export_graph,
    name_student_outputs,
    strip_metadata,
)

COMPARE = make_compare_spec(THREE_SCALES)


@pytest.fixture(scope="module")
def student():
    student = make_student()
    student.recall.expected_distances.uniform_(0.5, 2)
    for module in (*student.later, *student.decoder.later):
        nn.init.normal_(module.memory.adjust.weight, std=3.0)
        for layer in (module.narrow, module.merge[0], module.extract):
            nn.init.normal_(layer.weight)
    return student


@pytest.fixture(scope="module")
def compare(student):
    compare = Compare(COMPARE, channels=THREE_SCALES.channels).eval()
    compare.copy_statistics(student)
    compare.map_means.uniform_()
    return compare


def make_features(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, *size, generator=generator) for size in ((6, 4, 4), (5, 2, 2), (4, 8, 8)))


@pytest.fixture(scope="module")
def student_graph(student):
    """The student as it is exported."""
    inputs = ["t1", "t2", "t3"]
    outputs = [*name_student_outputs(COMPARE), ITEMS, WEIGHTS]
    return export_graph(StudentGraph(student).eval(), make_features(2), inputs=inputs, outputs=outputs)


def run_graph(graph, features, outputs=None):
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(outputs, {f"t{k + 1}": scale.numpy() for k, scale in enumerate(features)})


def test_outputs_are_named_by_source_and_number():
    assert name_student_outputs(COMPARE) == ["r1", "r2", "r3", "u1", "u2", "u3", "s1", "s2", "s3"]


@pytest.mark.parametrize("batch", [1, 5])
def test_the_exported_student_reconstructs_what_the_student_does_for_any_batch(student, student_graph, batch):
    features = make_features(batch, seed=1)
    with torch.no_grad():
        expected = student(*features)
    *found, items, weights = run_graph(student_graph, features)
    wanted = (*expected.recalled, *expected.expected_distances, *expected.extracted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-3, rtol=1e-3)
    np.testing.assert_array_equal(items, expected.items.numpy())
    np.testing.assert_allclose(weights, expected.weights.numpy(), atol=1e-4)


@pytest.mark.parametrize("module", ["later.0", "later.1", "decoder.later.0"])
def test_every_adaptive_memory_is_in_the_exported_student(student, student_graph, module):
    """Without one, an output of the network is another than that of the graph."""
    features = make_features(2, seed=1)
    memory = student.get_submodule(module).memory
    hook = memory.register_forward_hook(lambda *given: 0 * given[-1])
    with torch.no_grad():
        without = student(*features)
    hook.remove()
    names = name_student_outputs(COMPARE)
    found = dict(zip(names, run_graph(student_graph, features, names), strict=True))
    name, other = {
        "later.0": ("s2", without.extracted[1]),
        "later.1": ("s3", without.extracted[2]),
        "decoder.later.0": ("r3", without.recalled[2]),
    }[module]
    assert np.abs(found[name] - other.numpy()).max() > 0.05


def test_a_graph_holds_nothing_of_the_machine_and_is_of_the_opset(student_graph):
    model = onnx.load_from_string(student_graph)
    assert [one.version for one in model.opset_import if one.domain == ""] == [OPSET]
    assert not model.metadata_props
    assert not model.doc_string
    parts = (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.initializer)
    assert not [part.name for part in parts if part.metadata_props or part.doc_string]
    assert __file__.encode() not in student_graph
    assert all(one.data_location == onnx.TensorProto.DEFAULT for one in model.graph.initializer)


def make_note(part):
    """The part with what an exporter notes in it."""
    part.metadata_props.append(onnx.StringStringEntryProto(key="stack", value="/home/ann/x.py"))
    part.doc_string = "traced"
    return part


def test_notes_are_stripped_from_every_part():
    values = [make_note(onnx.helper.make_tensor_value_info(name, 1, [1])) for name in "xyz"]
    node = make_note(onnx.helper.make_node("Identity", ["x"], ["y"]))
    constant = make_note(onnx.helper.make_tensor("c", 1, [1], [0.5]))
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:2], [constant], value_info=values[2:])
    function = onnx.helper.make_function("own", "f", ["x"], ["y"], [node], [onnx.helper.make_opsetid("", OPSET)])
    model = make_note(onnx.helper.make_model(make_note(graph)))
    plain = str(model).replace("traced", "").count("stack")
    assert plain == 7
    model.functions.append(function)
    text = str(strip_metadata(model))
    assert "stack" not in text
    assert "Identity" in text
    del model.functions[:]  # a function's node may have a text
    assert "traced" not in str(model)


def test_the_flat_comparison_is_the_comparison(student, compare):
    features = make_features(2)
    valid = torch.ones(2, 8, 8)
    valid[1, :3] = 0
    with torch.no_grad():
        *flat, _, _ = StudentGraph(student)(*features)
        found = CompareGraph(compare)(*features, *flat, valid)
        expected = compare(features, student(*features), valid)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(compare_with_networks(features, student, compare, valid), expected, strict=True):
        assert torch.equal(one, other)


def make_parity(*, score_off=0.0, map_off=0.0):
    """Two images, of which the second one's graphs are off, the map at one position."""
    scores, maps = torch.tensor([1.0, 2.0]), torch.rand(2, 4, 4)
    found = [SimpleNamespace(score=float(s), map=m.numpy().copy()) for s, m in zip(scores, maps, strict=True)]
    found[1].score += score_off
    found[1].map[3, 2] += map_off
    return SimpleNamespace(score=scores, map=maps), found


@pytest.mark.parametrize("sign", [1, -1])
def test_the_parity_is_the_largest_difference_of_any_image(sign):
    parity = check_parity(*make_parity(score_off=sign * 5e-4, map_off=sign * 2e-3))
    assert parity.num_images == 2
    assert parity.score == pytest.approx(5e-4, rel=1e-2)
    assert parity.map == pytest.approx(2e-3, rel=1e-2)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("what", ["score", "map"])
def test_graphs_that_differ_by_more_than_the_tolerance_are_refused(what, sign):
    off = 1.1 * TOLERANCES[what]
    with pytest.raises(TrainingError, match=f"differ from the network: {what} by"):
        check_parity(*make_parity(**{f"{what}_off": sign * off}))
    check_parity(*make_parity(**{f"{what}_off": sign * 0.9 * TOLERANCES[what]}))


@pytest.mark.parametrize("what", ["score_off", "map_off"])
def test_graphs_that_answer_nan_are_refused(what):
    with pytest.raises(TrainingError):
        check_parity(*make_parity(**{what: float("nan")}))
