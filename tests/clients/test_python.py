"""The Python client against real services: one that is full, slow, gone and back."""

import asyncio
import re
import socket
import sys
import threading
from pathlib import Path

import pytest
from receivers import Receiver
from serving import Service

CLIENTS = Path(__file__).parents[2] / "clients/python"
sys.path.insert(0, str(CLIENTS))

from goodpart_client import AsyncClient, Client, NoAnswerError, ProblemError  # noqa: E402  # after the path

pytestmark = pytest.mark.processes


@pytest.fixture
def service(store_folder):
    with Service(store_folder) as service:
        yield service


def url(service):
    return f"http://{service.address}"


def test_a_part_is_judged_by_bytes_and_by_file_alike(service, tmp_path, defective_bytes, tiny_version):
    (tmp_path / "part.png").write_bytes(defective_bytes)
    with Client(url(service)) as client:
        by_bytes = client.inspect("disc", defective_bytes, part_id="p1", heatmap="png")
        by_file = client.inspect("disc", tmp_path / "part.png")
    assert (by_bytes.verdict, by_bytes.is_ok, by_bytes.part_id) == ("ng", False, "p1")
    assert (by_bytes.score, by_bytes.version) == (by_file.score, tiny_version.name)
    assert by_bytes.regions[0].area_px > 0
    assert by_bytes.heatmap.data.startswith(b"\x89PNG")
    assert by_file.heatmap is None


def test_it_is_awaited_alike(service, good_bytes):
    async def ask():
        async with AsyncClient(url(service)) as client:
            return await asyncio.gather(*(client.inspect("disc", good_bytes, part_id=str(n)) for n in range(5)))

    assert [one.part_id for one in asyncio.run(ask())] == [str(n) for n in range(5)]


def test_a_problem_is_raised_at_once(service, good_bytes):
    with Client(url(service)) as client:
        with pytest.raises(ProblemError, match="no product is called 'cup'") as caught:
            client.inspect("cup", good_bytes)
        assert (caught.value.status, caught.value.slug) == (404, "unknown-product")
        with pytest.raises(ProblemError) as caught:
            client.inspect("disc", b"no image")
        assert caught.value.slug == "not-an-image"


def test_refused_requests_are_retried_until_all_are_inspected(store_folder, good_bytes):
    with Service(store_folder, max_in_hand=1) as service:
        found = []

        def ask(number):
            with Client(url(service)) as client:
                found.append(client.inspect("disc", good_bytes, part_id=str(number), deadline_s=50).part_id)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = service.client.get("/metrics").text
    assert sorted(found) == [str(number) for number in range(6)]
    assert 'goodpart_refusals_total{reason="queue-full"}' in refused


def test_a_request_is_repeated_after_a_restart_and_stays_one_inspection(store_folder, tmp_path, good_bytes):
    with Service(store_folder) as first:
        port = first.port
    answers = []

    def ask():
        with Client(f"http://127.0.0.1:{port}") as client:
            answers.append(client.inspect("disc", good_bytes, part_id="p1", deadline_s=40))

    asking = threading.Thread(target=ask)
    with socket.create_server(("127.0.0.1", port)) as refusing:
        asking.start()
        refusing.accept()[0].close()
    with Service(store_folder, port=port, local=tmp_path / "local") as service:
        asking.join()
        assert answers[0].part_id == "p1"
        assert len(service.client.get("/v1/inspections").json()["items"]) == 1


def test_no_answer_in_time_says_what_was_tried():
    with Client("http://127.0.0.1:9") as client, pytest.raises(NoAnswerError, match=r"within 0\.5 s and \d+ tries"):
        client.inspect("disc", b"x", deadline_s=0.5)


def test_every_try_carries_one_key_and_the_time_that_is_left():
    receiver = Receiver()
    receiver.status = 503
    with Client(receiver.url.removesuffix("/results"), key="secret") as client, pytest.raises(NoAnswerError):
        client.inspect("disc", b"x", deadline_s=1.0)
    receiver.close()
    tries = [headers for headers, _ in receiver.requests]
    assert len(tries) > 1
    assert len({one["Idempotency-Key"] for one in tries}) == 1
    assert {one["Authorization"] for one in tries} == {"Bearer secret"}
    left = [float(one["X-Deadline-Ms"]) for one in tries]
    assert left == sorted(left, reverse=True)


def test_nothing_of_the_service_is_imported():
    for path in CLIENTS.rglob("*.py"):
        assert not re.search(r"^\s*(import|from) (app|model|training)\b", path.read_text(), re.MULTILINE)
