import pytest

from app.inference.sessions import available_cpus, read_cpu_quota


@pytest.mark.parametrize(
    ("content", "cpus"), [("150000 100000\n", 2), ("50000 100000\n", 1), ("400000 100000\n", 4), ("max 100000\n", None)]
)
def test_a_containers_quota_is_read_in_whole_processors(tmp_path, content, cpus):
    (tmp_path / "cpu.max").write_text(content)
    assert read_cpu_quota(tmp_path / "cpu.max") == cpus


def test_without_a_quota_the_affinity_counts(tmp_path):
    assert available_cpus(tmp_path / "absent") >= 1
    (tmp_path / "cpu.max").write_text("100000 100000")
    assert available_cpus(tmp_path / "cpu.max") == 1
