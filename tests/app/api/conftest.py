import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings

LIMITS = {"max_upload_bytes": 200_000, "max_batch_upload_bytes": 500_000, "max_batch_images": 5, "max_pixels": 10**6}


@pytest.fixture
def client_over():
    """Makes a client of a service over a store."""
    clients = []

    def make(store_folder, **settings):
        given = {**LIMITS, "local": store_folder.parent / "local", **settings}
        app = create_app(Settings(store=store_folder, threads=1, decoders=2, **given))
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(client_over, store_folder):
    return client_over(store_folder)
