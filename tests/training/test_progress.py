import io
import signal

import pytest
from rich.console import Console

from training.errors import Stopped
from training.progress import Interruption, ProgressLines, ProgressReporter


def test_where_there_is_no_terminal_a_step_is_a_line_now_and_then(monkeypatch):
    said = []
    times = iter([0.0, 5.0, 12.0])
    monkeypatch.setattr("training.progress.time.monotonic", lambda: next(times))
    lines = ProgressLines("learning", total=100, done=40, print_line=said.append)
    lines.advance(10, "loss 0.5")
    lines.advance(20, "loss 0.4")
    assert said == ["learning: 70 of 100, 12 s left, loss 0.4"]


def test_a_signal_ends_a_run_at_the_next_piece_and_a_second_one_at_once():
    interruption = Interruption()
    reporter = ProgressReporter(Console(file=io.StringIO()), interruption)
    before = signal.getsignal(signal.SIGTERM)
    with interruption.handle_signals(), reporter.step("learning", total=3) as advance:
        advance(1)
        signal.raise_signal(signal.SIGTERM)
        assert reporter.is_stopping()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        with pytest.raises(Stopped) as caught:
            advance(1)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
