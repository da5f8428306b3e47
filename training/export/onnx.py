"""Export of the networks to ONNX, and the parity check of the graphs."""

import inspect
import logging
import warnings
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from app.inference.detector import ITEMS, WEIGHTS, Comparison, Graphs
from model.compare import Compare, CompareSpec
from model.compare import CompareOutput as TorchComparison
from model.student import Reconstruction, Student
from model.teacher import Teacher
from training.errors import TrainingError

# The newest opset that ONNX Runtime's CUDA and TensorRT providers run in whole.
OPSET = 20
# Images to trace with. With a single one the exporter would make the batch size fixed.
NUM_TRACED = 2
# In damped spreads of good positions. Recall divides cosines, whose rounding is 1e-7, by the temperature, and a
# distance by the expected one, which is small where good parts hardly differ. So float32 can't repeat itself better
# than some 1e-3 at one position, and some 1e-4 in a score, which is the mean of many. A verdict needs no more.
TOLERANCES = {"score": 1e-3, "map": 5e-3}


@dataclass(frozen=True)
class Parity:
    """The largest raw differences between networks and graphs, over the images tried."""

    num_images: int
    score: float
    map: float


class StudentGraph(nn.Module):
    """The student with one flat tuple of outputs, in the order of ``name_student_outputs``."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, *teacher_features: Tensor) -> tuple[Tensor, ...]:
        """As ``Student.forward``."""
        found = self.student(*teacher_features)
        return (*found.recalled, *found.expected_distances, *found.extracted, found.items, found.weights)


class CompareGraph(nn.Module):
    """The comparison with one flat argument list: ``t1..tK, r1..rR, u1..uR, s1..sE, valid``."""

    def __init__(self, compare: Compare) -> None:
        super().__init__()
        self.compare = compare

    def forward(self, *tensors: Tensor) -> TorchComparison:
        """Return ``Compare.forward`` of the flat arguments."""
        spec = self.compare.spec
        *features, valid = tensors
        num_scales = len(features) - 2 * spec.num_recalled - spec.num_extracted
        teacher, rest = features[:num_scales], features[num_scales:]
        recalled, rest = rest[: spec.num_recalled], rest[spec.num_recalled :]
        expected, extracted = rest[: spec.num_recalled], rest[spec.num_recalled :]
        student = Reconstruction(tuple(recalled), tuple(expected), tuple(extracted), valid, valid)
        answer: TorchComparison = self.compare(tuple(teacher), student, valid)
        return answer


def name_student_outputs(spec: CompareSpec) -> list[str]:
    """Return ``r1..rR`` (recalled), ``u1..uR`` (expected distances), ``s1..sE`` (extracted)."""
    counts = {"r": spec.num_recalled, "u": spec.num_recalled, "s": spec.num_extracted}
    return [f"{kind}{number}" for kind, count in counts.items() for number in range(1, count + 1)]


def export_graphs(
    teacher: Teacher, student: Student, compare: Compare, pixels: Tensor, *, exported_teacher: bytes | None = None
) -> Graphs:
    """Export all three from CPU copies, or two where the teacher has been exported before.

    ``pixels``: uint8 (2 or more, height, width, 3), to trace with.
    """
    graph = StudentGraph(student).eval()
    with torch.no_grad():
        features = teacher(pixels)
        *reconstructed, _, _ = graph(*features)
    teacher_names = [f"t{number}" for number in range(1, len(features) + 1)]
    student_names = name_student_outputs(compare.spec)
    valid = torch.ones(len(pixels), *compare.spec.map_size)
    return Graphs(
        teacher=exported_teacher or export_graph(teacher, (pixels,), inputs=["image"], outputs=teacher_names),
        student=export_graph(graph, features, inputs=teacher_names, outputs=[*student_names, ITEMS, WEIGHTS]),
        compare=export_graph(
            CompareGraph(compare).eval(),
            (*features, *reconstructed, valid),
            inputs=[*teacher_names, *student_names, "valid"],
            outputs=list(TorchComparison._fields),
        ),
    )


def export_graph(network: nn.Module, arguments: tuple[Tensor, ...], *, inputs: list[str], outputs: list[str]) -> bytes:
    """Export one network as a self-contained graph with a dynamic batch; the same network gives the same bytes."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    parameters = inspect.signature(network.forward).parameters.values()
    is_variadic = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters)
    shapes = tuple({0: batch} for _ in arguments)
    # It would warn, four times a graph, that torchvision is not there.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The exporter uses parts of torch that torch itself has deprecated.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            arguments,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(shapes,) if is_variadic else shapes,
            input_names=inputs,
            output_names=outputs,
            verbose=False,
        )
    if program is None:
        message = "torch.onnx.export returned no program"
        raise RuntimeError(message)
    data: bytes = strip_metadata(program.model_proto).SerializeToString(deterministic=True)
    return data


def strip_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's metadata: stack traces name files of the exporting machine."""
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
    return model


def compare_with_networks(
    teacher_features: tuple[Tensor, ...], student: Student, compare: Compare, valid: Tensor
) -> TorchComparison:
    """Return the networks' comparison of a batch's teacher features."""
    with torch.no_grad():
        answer: TorchComparison = compare(teacher_features, student(*teacher_features), valid)
    return answer


def check_parity(expected: TorchComparison, found: list[Comparison]) -> Parity:
    """Return the largest differences of score and map. Raises TrainingError above their tolerances."""
    off = [row.score - value for row, value in zip(found, expected.score.tolist(), strict=True)]
    score = float(np.abs(off).max())  # Python's max would lose NaN
    map_ = float(np.abs(np.stack([row.map for row in found]) - expected.map.numpy()).max())
    for what, largest in (("score", score), ("map", map_)):
        if not largest <= TOLERANCES[what]:
            raise TrainingError(
                f"the exported graphs differ from the network: {what} by {largest:.2e}, "
                f"more than {TOLERANCES[what]:.0e}",
                kind="parity-failed",
            )
    return Parity(num_images=len(found), score=score, map=map_)
