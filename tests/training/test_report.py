from model.bundle import PromiseRecord
from training.report import promise_in_words


def promise(asked, supported, num_calibration):
    return PromiseRecord(asked=asked, supported=supported, num_calibration=num_calibration, threshold=1.0)


def test_a_promise_that_holds_is_said_as_asked():
    assert promise_in_words(promise(0.05, 0.05, 40)).endswith("of 5.00%, as asked.")


def test_a_promise_that_fails_says_how_many_parts_it_takes():
    said = promise_in_words(promise(0.01, 1 / 21, 20))
    assert "4.76%, not the 1.00% that was asked" in said
    assert said.endswith("that takes 99, of 493 good images in all.")
