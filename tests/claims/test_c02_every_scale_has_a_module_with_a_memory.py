from model.adaptive import AdaptiveMemory
from model.recall import RecallMemory


def test_there_is_one_module_a_scale_and_each_holds_a_memory(make_student, spec):
    student = make_student(0)
    assert 1 + len(student.later) == len(spec.channels)
    assert isinstance(student.recall, RecallMemory)
    assert all(isinstance(module.memory, AdaptiveMemory) for module in student.later)


def test_the_memory_of_a_scale_decides_what_its_module_extracts(make_student, features):
    student = make_student(0)
    before = student(*features).features
    student.later[0].memory.redimension.weight.data.normal_(std=30)
    after = student(*features).features
    assert before[0].equal(after[0])
    assert not before[1].allclose(after[1])
