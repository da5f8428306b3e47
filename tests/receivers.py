"""What results go to in tests: a webhook, and a real MQTT broker with a subscriber."""

import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from serving import until

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


class Receiver:
    """A webhook. ``status``: what it answers; ``gate``: open while it answers; ``taken``: what it answered well."""

    def __init__(self):
        self.status, self.taken, self.requests = 200, [], []
        self.gate = threading.Event()
        self.gate.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.requests.append((dict(self.headers), body))
                receiver.gate.wait()
                if receiver.status == 200:
                    receiver.taken.append(json.loads(body))
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/results"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()


class Broker:
    """A mosquitto that can be taken away and brought back, and what a subscriber has had from it."""

    def __init__(self, folder, port):
        self.port, self.taken, self.status = port, [], []
        self.config = folder / "mosquitto.conf"
        self.config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {folder}/\n"
            "autosave_interval 1\nautosave_on_changes true\n"
        )
        self.process = None
        self.client = None

    def start(self):
        import paho.mqtt.client as mqtt

        self.process = subprocess.Popen([MOSQUITTO, "-c", self.config], stderr=subprocess.DEVNULL)
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="subscriber", clean_session=False)
        self.client.on_message = self._on_message
        subscribed = threading.Event()
        self.client.on_connect = lambda *_: self.client.subscribe("goodpart/#", qos=1)
        self.client.on_subscribe = lambda *_: subscribed.set()

        def handle():
            try:
                self.client.connect("127.0.0.1", self.port)
            except OSError:
                return False
            return True

        until(handle, within_s=10)
        self.client.loop_start()
        assert subscribed.wait(10)

    def stop(self):
        self.client.loop_stop()
        self.client.disconnect()
        self.process.terminate()
        self.process.wait(10)

    def _on_message(self, _client, _data, message):
        if "/status/" in message.topic:
            self.status.append(message.payload.decode())
        else:
            self.taken.append((message.topic, json.loads(message.payload)))
