import torch

from model.adaptive import AdaptiveMemory
from model.recall import RecallMemory


def test_there_is_one_module_a_scale_and_each_holds_a_memory(make_student, spec):
    student = make_student(0)
    assert 1 + len(student.later) == len(spec.channels)
    assert isinstance(student.recall, RecallMemory)
    assert all(isinstance(module.memory, AdaptiveMemory) for module in student.later)


def test_the_memory_of_a_scale_decides_what_its_module_extracts(make_student, features):
    student = make_student(0)
    before = student(*features).extracted
    student.later[0].memory.adjust.weight.data.normal_(std=30)
    after = student(*features).extracted
    assert before[0].equal(after[0])
    assert not before[1].allclose(after[1])
    assert before[2].equal(after[2])


def test_a_student_without_gradient_steps_returns_what_it_recalls_and_extracts_nothing(make_student, spec, features):
    from dataclasses import replace

    student = make_student(0, replace(spec, extracts=False))
    reconstruction = student(*features)
    assert reconstruction.extracted == ()
    assert len(reconstruction.recalled) == 2
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in student.modules())
