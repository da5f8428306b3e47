"""Results as registers: a PLC that follows the docs gets every one, in order, despite kills and lost connections."""

import asyncio
import json
import shutil
import socket
import sqlite3
import struct
from datetime import UTC, datetime

import pytest
from conftest import FIXTURE
from pymodbus.client import ModbusTcpClient
from pymodbus.constants import ExcCodes
from pymodbus.exceptions import ModbusException
from serving import Service, until

from app.errors import SettingsError
from app.sinks.modbus import Modbus, ModbusConnection
from app.sinks.outbox import DeliveryError, Message
from app.sinks.registers import MAP, NUM_WORDS, Panel, clamp_float32, parse_part_number
from app.sinks.settings import read_sinks
from app.store.state import State
from app.store.store import Store
from model.bundle import make_file_records

PNG = {"content-type": "image/png"}
TIMEOUT_S = 0.5
RESULTS_VALID, ACKNOWLEDGED = 1, 2
# The map once more, as a program of a PLC would have it.
NAMES = (
    *("heartbeat", "valid", "acknowledged", "verdict", "score", "threshold"),
    *("sequence", "part_number", "part_id", "product", "repeated"),
)
LAYOUT = ">HHHHffII64s64sH"


class Plc:
    """A PLC that goes by the page, a scan a ``turn``. ``taken``: the results that it has read and acknowledged."""

    def __init__(self, port):
        self.client = ModbusTcpClient("127.0.0.1", port=port, timeout=5, retries=0)
        self.taken = []

    def read(self):
        """The registers by name, None without an answer."""
        try:
            if not self.client.connect():
                return None
            words = self.client.read_holding_registers(0, count=77).registers
        except (ModbusException, OSError):
            self.client.close()
            return None
        fields = dict(zip(NAMES, struct.unpack(LAYOUT, struct.pack(">77H", *words)), strict=True))
        return {name: text(value) if isinstance(value, bytes) else value for name, value in fields.items()}

    def turn(self):
        """Take a result, or ask for the next."""
        fields = self.read()
        if fields and fields["valid"]:
            self.taken.append(fields)
            self.client.write_register(ACKNOWLEDGED, 1)
        elif fields and fields["acknowledged"]:
            self.client.write_register(ACKNOWLEDGED, 0)

    def take(self, number):
        """Turn until so many more are taken; these."""
        before = len(self.taken)
        until(lambda: self.turn() or len(self.taken) >= before + number)
        return self.taken[before:]

    def look(self):
        """Ask for the next result and read it, without acknowledging it."""

        def read_shown():
            fields = self.read()
            if fields and fields["acknowledged"]:
                self.client.write_register(ACKNOWLEDGED, 0)
            return fields if fields and fields["valid"] else None

        return until(read_shown)


def text(padded):
    return padded.rstrip(b"\0").decode("ascii")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def sinks_file(folder, port):
    path = folder / "sinks.toml"
    path.write_text(f'[[modbus]]\nname = "plc"\nport = {port}\ntimeout_s = {TIMEOUT_S}\n')
    return path


def judge(service, image, part_id, product="disc"):
    answer = service.client.post(
        f"/v1/products/{product}/inspect", content=image, headers=PNG, params={"heatmap": "none", "part_id": part_id}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def message(part_id="p1", key="one", **more):
    fields = {"verdict": "ok", "score": 1.5, "threshold": 2.5, "sequence": 7, "repeated": False, "product": "disc"}
    return Message(key, "disc", json.dumps({**fields, "part_id": part_id, **more}).encode())


def read_values(panel):
    return dict(zip(NAMES, struct.unpack(LAYOUT, struct.pack(">77H", *panel.words)), strict=True))


@pytest.fixture(scope="module")
def store_of_two(tmp_path_factory):
    """A store with the products disc and plate."""
    folder = shutil.copytree(FIXTURE, tmp_path_factory.mktemp("two") / "store")
    store = Store(folder)
    bundle = store.load_bundle("disc", store.list_versions("disc")[0])
    changed = {"product": "plate", "fingerprint": "1" * 64, "files": make_file_records(bundle.files)}
    manifest = bundle.manifest.model_copy(update=changed).model_dump_json().encode()
    version = store.publish("plate", manifest=manifest, files=bundle.files, training={})
    State(folder / "state").activate("plate", version, at=datetime.now(UTC), by="test", why="new")
    return folder


@pytest.fixture(scope="module")
def port():
    return free_port()


@pytest.fixture(scope="module")
def service(store_of_two, tmp_path_factory, port):
    with Service(store_of_two, sinks_file=sinks_file(tmp_path_factory.mktemp("sinks"), port)) as service:
        yield service


@pytest.fixture
def plc(service, port):  # noqa: ARG001  # it is there
    plc = Plc(port)
    yield plc
    plc.client.close()


@pytest.mark.processes
def test_results_of_two_products_are_shown_and_taken_in_order(service, plc, good_bytes, defective_bytes):
    posted = [(good_bytes, "4711", "disc"), (defective_bytes, "Teil-Ä", "disc"), (good_bytes, "x" * 70, "plate")]
    answers = [judge(service, image, part_id, product) for image, part_id, product in posted]
    taken = plc.take(3)
    assert [one["part_id"] for one in taken] == ["4711", "Teil-?", "x" * 64]
    assert [(one["product"], one["sequence"]) for one in taken] == [("disc", 1), ("disc", 2), ("plate", 1)]
    assert [one["part_number"] for one in taken] == [4711, 0, 0]
    assert [one["repeated"] for one in taken] == [0, 0, 0]
    for one, answer in zip(taken, answers, strict=True):
        assert one["verdict"] == {"ok": 1, "ng": 2}[answer["verdict"]]
        for name in ("score", "threshold"):  # 24 bits of mantissa are left
            assert one[name] == pytest.approx(answer[name], rel=2**-23)
    assert {one["verdict"] for one in taken} == {1, 2}


@pytest.mark.processes
def test_the_heartbeat_moves_while_nothing_happens(plc):
    first = until(plc.read)["heartbeat"]
    until(lambda: plc.read()["heartbeat"] > first)


@pytest.mark.processes
def test_a_plc_that_is_away_delays_no_verdict_and_gets_all_in_order(service, plc, good_bytes):
    for number in range(10):
        judge(service, good_bytes, f"away-{number}")
    assert not plc.read()["part_id"].startswith("away-9"), "the last was judged while the first was not taken"
    (reason,) = until(lambda: service.client.get("/readyz").json()["reasons"])
    assert reason == f"sink plc: no confirmation within {TIMEOUT_S} s"
    taken = plc.take(10)
    assert [one["part_id"] for one in taken] == [f"away-{number}" for number in range(10)]
    assert [one["repeated"] for one in taken] == [0] * 10
    until(lambda: not service.client.get("/readyz").json()["reasons"])


@pytest.mark.processes
def test_a_disk_that_hangs_stops_no_heartbeat(service, plc, good_bytes):
    judge(service, good_bytes, "slow")
    plc.look()
    with sqlite3.connect(f"{service.local}/journal.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        (fields,) = plc.take(1)
        until(lambda: plc.read()["heartbeat"] != fields["heartbeat"], within_s=3)
        other.rollback()


@pytest.mark.processes
def test_what_is_written_is_echoed_as_modbus_wants_it(service, plc, good_bytes):
    judge(service, good_bytes, "echo")
    plc.look()
    assert [plc.client.write_register(ACKNOWLEDGED, value).registers for value in (1, 0)] == [[1], [0]]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("address", "values", "refusal"),
    [
        (0, [1], ExcCodes.ILLEGAL_ADDRESS),
        (RESULTS_VALID, [0, 1], ExcCodes.ILLEGAL_ADDRESS),
        (NUM_WORDS, [1], ExcCodes.ILLEGAL_ADDRESS),
        (ACKNOWLEDGED, [2], ExcCodes.ILLEGAL_VALUE),
    ],
)
def test_writing_anything_else_is_refused(plc, address, values, refusal):
    before = until(plc.read)
    assert plc.client.write_registers(address, values).exception_code == refusal
    assert {**plc.read(), "heartbeat": 0} == {**before, "heartbeat": 0}


@pytest.mark.processes
def test_there_are_registers_and_no_coils_whatever_the_unit(plc):
    assert until(plc.read)
    assert plc.client.write_coil(ACKNOWLEDGED, value=True).exception_code == ExcCodes.ILLEGAL_FUNCTION
    assert plc.client.read_coils(0).exception_code == ExcCodes.ILLEGAL_FUNCTION
    assert plc.client.read_input_registers(3, count=74, device_id=17).registers[0] in {0, 1, 2}


@pytest.mark.processes
def test_what_is_shown_when_the_service_is_killed_is_shown_again(store_folder, tmp_path, good_bytes):
    port = free_port()
    given = {"local": tmp_path / "local", "sinks_file": sinks_file(tmp_path, port)}
    plc = Plc(port)
    with Service(store_folder, **given) as service:
        for number in range(4):
            judge(service, good_bytes, f"p{number}")
        plc.take(1)
        assert plc.look()["part_id"] == "p1"
        service.process.kill()
        service.process.wait()
    with Service(store_folder, **given):
        plc.take(3)
    assert [one["part_id"] for one in plc.taken] == ["p0", "p1", "p2", "p3"]
    assert [one["sequence"] for one in plc.taken] == [1, 2, 3, 4]
    assert [one["repeated"] for one in plc.taken] == [0, 1, 0, 0]
    socket.create_server(("127.0.0.1", port)).close()  # free again at once
    plc.client.close()


def test_a_port_in_use_is_reported_and_retried():
    sink = Modbus(name="plc", host="127.0.0.1", port=free_port(), timeout_s=1)

    async def reach():
        async with sink.connect() as connection:
            return connection

    async def story():
        with socket.create_server(("127.0.0.1", sink.port)), pytest.raises(DeliveryError) as caught:
            await reach()
        connection = await reach()
        assert await reach() == connection
        return str(caught.value)

    assert f"can't listen on 127.0.0.1:{sink.port}" in asyncio.run(story())


def test_an_early_acknowledgement_counts():
    async def story():
        panel = Panel()
        showing = ModbusConnection(panel, asyncio.current_task())
        panel.acknowledge(0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(showing.send(message()), 0.01)
        panel.acknowledge(1)
        await asyncio.wait_for(showing.send(message(repeated=True)), 0.01)
        assert (read_values(panel)["valid"], read_values(panel)["repeated"]) == (0, 0)

    asyncio.run(story())


def test_a_server_that_ends_is_noticed():
    async def story():
        life = asyncio.create_task(asyncio.sleep(0))
        with pytest.raises(DeliveryError, match="has ended"):
            await ModbusConnection(Panel(), life).wait_until_lost()

    asyncio.run(story())


def test_nothing_is_shown_until_the_acknowledgement_before_is_cleared():
    panel = Panel()
    panel.offer(message())
    assert (read_values(panel)["valid"], read_values(panel)["verdict"]) == (
        0,
        0,
    )  # what was written before the start may stand
    panel.acknowledge(0)
    assert (read_values(panel)["valid"], read_values(panel)["verdict"]) == (1, 1)
    panel.acknowledge(1)
    panel.acknowledge(1)  # as by a PLC that did not hear that the first arrived
    panel.offer(message("p2", key="two"))
    assert (read_values(panel)["valid"], text(read_values(panel)["part_id"])) == (0, "p1")
    assert not panel.taken.is_set()
    panel.acknowledge(0)
    panel.acknowledge(0)
    assert (read_values(panel)["valid"], text(read_values(panel)["part_id"])) == (1, "p2")


def test_an_early_acknowledgement_takes_nothing():
    panel = Panel()
    panel.acknowledge(0)
    panel.acknowledge(1)
    panel.offer(message())
    assert not panel.taken.is_set()
    panel.acknowledge(0)
    assert read_values(panel)["valid"] == 1


def test_what_is_not_owed_any_more_is_not_taken_for_what_is():
    panel = Panel()
    panel.acknowledge(0)
    panel.offer(message())
    panel.offer(message("p2", key="two"))
    panel.acknowledge(1)  # of the first
    assert not panel.taken.is_set()
    panel.acknowledge(0)
    assert text(read_values(panel)["part_id"]) == "p2"


def test_the_heartbeat_wraps_around():
    panel = Panel()
    panel.words[0] = 65_535
    panel.beat()
    assert read_values(panel)["heartbeat"] == 0


def test_the_map_has_no_gap_and_each_number_of_two_words_an_even_address():
    assert [one.address for one in MAP] == [sum(one.num_words for one in MAP[:index]) for index in range(len(MAP))]
    assert all(one.address % 2 == 0 for one in MAP if one.num_words == 2)
    assert NUM_WORDS == 77


@pytest.mark.parametrize(
    ("part_id", "number"),
    [
        ("", 0), ("0", 0), ("17", 17), ("000000000000017", 17), ("4294967295", 4_294_967_295), ("4294967296", 0),
        ("9" * 5000, 0), ("-1", 0), ("1.5", 0), ("٣", 0), ("A1", 0),
    ],
)  # fmt: skip
def test_a_part_number_is_a_decimal_number_that_fits(part_id, number):
    assert parse_part_number(part_id) == number


def test_a_number_beyond_32_bits_is_the_nearest_that_fits():
    for value, nearest in ((1e300, 3.4028234663852886e38), (-1e300, -3.4028234663852886e38), (0.5, 0.5)):
        assert struct.unpack(">f", struct.pack(">f", clamp_float32(value))) == (nearest,)


def test_a_part_without_an_id_is_shown():
    panel = Panel()
    panel.acknowledge(0)
    panel.offer(message(part_id=None))
    assert (read_values(panel)["part_number"], text(read_values(panel)["part_id"])) == (0, "")


@pytest.mark.parametrize("line", ["port = 0", 'host = ""', "unit = 1"])
def test_a_table_that_can_not_be_used_is_refused(tmp_path, line):
    path = tmp_path / "sinks.toml"
    path.write_text(f'[[modbus]]\nname = "plc"\n{line}\n')
    with pytest.raises(SettingsError, match=f"modbus.0.{line.split()[0]}"):
        read_sinks(path, instance="line-1")
