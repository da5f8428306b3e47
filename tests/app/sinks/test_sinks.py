"""Results that leave: every one, in order, whatever is killed, away or slow."""

import hashlib
import hmac
import socket
import sqlite3
import time

import pytest
from receivers import MOSQUITTO, Broker, Receiver
from serving import Service, until

from app.errors import SettingsError
from app.sinks.settings import read_sinks

URL = "/v1/products/disc/inspect"
PNG = {"content-type": "image/png"}
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto (Debian: mosquitto) is not here")


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def broker(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    broker = Broker(tmp_path, port)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def sinks_file(tmp_path):
    def make(text):
        path = tmp_path / "sinks.toml"
        path.write_text(text)
        return path

    return make


def webhook(receiver, more=""):
    return f'[[webhook]]\nname = "mes"\nurl = "{receiver.url}"\ntimeout_s = 2\n{more}\n'


def mqtt(broker):
    return f'[[mqtt]]\nname = "broker"\nhost = "127.0.0.1"\nport = {broker.port}\ntimeout_s = 2\n'


def judge(service, image, part_id):
    answer = service.client.post(URL, content=image, headers=PNG, params={"heatmap": "none", "part_id": part_id})
    assert answer.status_code == 200, answer.text
    return answer.json()


def parts(taken):
    return [one["part_id"] for one in taken]


@pytest.mark.processes
def test_a_result_is_posted_signed_and_named(store_folder, tmp_path, receiver, sinks_file, good_bytes):
    (tmp_path / "secret").write_text("hush\n")
    path = sinks_file(webhook(receiver, f'secret_file = "{tmp_path}/secret"'))
    with Service(store_folder, sinks_file=path, instance="line-1") as service:
        answer = judge(service, good_bytes, "p1")
        until(lambda: receiver.taken)
    (headers, body), (message,) = receiver.requests[0], receiver.taken
    assert (message["instance"], message["sequence"], message["repeated"]) == ("line-1", 1, False)
    assert {name: message[name] for name in ("inspection_id", "part_id", "verdict", "score", "threshold")} == {
        name: answer[name] for name in ("inspection_id", "part_id", "verdict", "score", "threshold")
    }
    assert "heatmap" not in message
    at, digest = (one.split("=")[1] for one in headers["Goodpart-Signature"].split(","))
    assert digest == hmac.new(b"hush", at.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert abs(time.time() - int(at)) < 60
    assert headers["Idempotency-Key"] == answer["inspection_id"]
    assert message["journal"]


@pytest.mark.processes
def test_what_is_refused_is_sent_again_until_it_is_taken_in_order(store_folder, receiver, sinks_file, good_bytes):
    receiver.status = 503
    with Service(store_folder, sinks_file=sinks_file(webhook(receiver))) as service:
        for number in range(5):
            judge(service, good_bytes, f"p{number}")
        reasons = until(lambda: service.client.get("/readyz").json()["reasons"])
        assert (service.client.get("/readyz").status_code, "sink mes" in reasons[0]) == (200, True)
        assert receiver.url.rpartition("/")[0] not in reasons[0]  # an address may hold a secret
        metrics = service.client.get("/metrics").text
        assert 'goodpart_sink_trouble{sink="mes"} 1.0' in metrics
        assert 'goodpart_sink_owed{sink="mes"} 5.0' in until(
            lambda: (text := service.client.get("/metrics").text) and 'owed{sink="mes"} 5.0' in text and text
        )
        receiver.status = 200
        until(lambda: len(receiver.taken) >= 5)
        assert list(dict.fromkeys(parts(receiver.taken))) == [f"p{number}" for number in range(5)]
        until(lambda: not service.client.get("/readyz").json()["reasons"])


@pytest.mark.processes
def test_a_sink_that_hangs_delays_no_verdict(store_folder, receiver, sinks_file, good_bytes):
    receiver.gate.clear()
    with Service(store_folder, sinks_file=sinks_file(webhook(receiver))) as service:
        judge(service, good_bytes, "first")
        until(lambda: receiver.requests)
        for number in range(10):
            judge(service, good_bytes, f"p{number}")
        assert receiver.taken == [], "all were judged while the first was not taken"
        receiver.gate.set()


@pytest.mark.processes
def test_nothing_is_lost_by_kills_and_order_is_kept(store_folder, tmp_path, receiver, sinks_file, good_bytes):
    path, sent = sinks_file(webhook(receiver)), []
    for _ in range(3):
        with Service(store_folder, local=tmp_path / "local", sinks_file=path, instance="line-1") as service:
            for _ in range(15):
                part = f"p{len(sent)}"
                judge(service, good_bytes, part)
                sent.append(part)
            service.process.kill()
            service.process.wait()
    with Service(store_folder, local=tmp_path / "local", sinks_file=path, instance="line-1"):
        until(lambda: set(parts(receiver.taken)) >= set(sent))
    assert list(dict.fromkeys(parts(receiver.taken))) == sent
    again = [one for index, one in enumerate(receiver.taken) if one["part_id"] in parts(receiver.taken[:index])]
    assert all(one["repeated"] for one in again)
    firsts = {one["part_id"]: one["sequence"] for one in reversed(receiver.taken)}
    assert [firsts[part] for part in sent] == list(range(1, len(sent) + 1))


@pytest.mark.processes
def test_a_disk_that_hangs_is_not_waited_for(store_folder, tmp_path, receiver, sinks_file, good_bytes):
    with Service(store_folder, local=tmp_path / "local", sinks_file=sinks_file(webhook(receiver))) as service:
        judge(service, good_bytes, "p0")
        with sqlite3.connect(tmp_path / "local/journal.db") as other:
            other.execute("BEGIN EXCLUSIVE")
            judge(service, good_bytes, "p1")
            assert "p1" not in parts(receiver.taken), "it was judged while it could not be recorded"
            other.rollback()
        until(lambda: "p1" in parts(receiver.taken))
        judge(service, good_bytes, "p2")
        until(lambda: parts(receiver.taken) == ["p0", "p1", "p2"])
        assert "goodpart_records_lost_total 0.0" in service.client.get("/metrics").text


@pytest.mark.processes
@needs_mosquitto
def test_a_broker_that_restarts_while_nothing_is_judged_hears_of_the_service_again(
    store_folder, broker, sinks_file, good_bytes
):
    with Service(store_folder, sinks_file=sinks_file(mqtt(broker)), instance="line-1") as service:
        judge(service, good_bytes, "p0")
        until(lambda: broker.taken)
        broker.stop()
        broker.status.clear()
        broker.start()
        until(lambda: "online" in broker.status[-1:], within_s=30)
        assert service.client.get("/readyz").status_code == 200


@pytest.mark.processes
@needs_mosquitto
def test_a_broker_that_goes_away_misses_nothing_and_knows_who_is_there(
    store_folder, tmp_path, broker, sinks_file, good_bytes
):
    with Service(store_folder, local=tmp_path / "local", sinks_file=sinks_file(mqtt(broker))) as service:
        judge(service, good_bytes, "p0")
        until(lambda: broker.taken)
        assert broker.taken[0][0] == "goodpart/results/disc"
        assert broker.status[-1] == "online"
        broker.stop()
        for number in range(1, 6):
            judge(service, good_bytes, f"p{number}")
        until(lambda: service.client.get("/readyz").json()["reasons"])
        broker.start()
        until(lambda: len(broker.taken) >= 6)
        assert list(dict.fromkeys(one["part_id"] for _, one in broker.taken)) == [f"p{number}" for number in range(6)]
        service.process.kill()
        service.process.wait()
        until(lambda: broker.status[-1] == "offline", within_s=30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[webhook]]\nname = 'a'\nurl = 'ftp://x'\n", "webhook.0.url"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://x'\ncolour = 'red'\n", "webhook.0.colour"),
        (
            "[[webhook]]\nname = 'a'\nurl = 'http://x'\n[[mqtt]]\nname = 'a'\nhost = 'x'\n",
            "two sinks have the name 'a'",
        ),
        ("[[webhook]]\nname = 'a'\nurl = 'http://[::1/x'\n", "webhook.0.url"),
        ("[[mqtt]]\nname = 'a'\nhost = ''\n", "mqtt.0.host"),
        ("[[fax]]\nname = 'a'\n", "fax"),
        ("[[", "Invalid|Expected|expected"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://x'\nsecret_file = '/absent'\n", "/absent"),
    ],
)
def test_a_file_that_can_not_be_used_is_one_line(sinks_file, text, message):
    with pytest.raises(SettingsError, match=message) as caught:
        read_sinks(sinks_file(text), instance="line-1")
    assert "\n" not in str(caught.value)


@pytest.mark.processes
def test_sinks_without_a_history_are_refused(store_folder, receiver, sinks_file):
    with pytest.raises(AssertionError, match="GOODPART_HISTORY_RECORDS is 0"):
        Service(store_folder, sinks_file=sinks_file(webhook(receiver)), history_records=0)
