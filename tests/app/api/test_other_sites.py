"""Pages of other sites: requests from the browser of an authorised user are refused."""

import pytest

from app.api.keys import generate_key

ROLLBACK = "/v1/products/disc/rollback"


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://testserver:81"},
        {"origin": "http://elsewhere.example"},
        {"origin": "null"},
        {"origin": "http://["},
    ],
)
def test_a_page_of_another_site_changes_nothing(client, headers):
    answer = client.post(ROLLBACK, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:goodpart:problem:from-elsewhere")


@pytest.mark.parametrize("headers", [{}, {"sec-fetch-site": "same-origin"}, {"origin": "http://testserver"}])
def test_the_console_and_other_clients_are_let_in(client, headers):
    assert client.post(ROLLBACK, headers=headers).json()["type"] == "urn:goodpart:problem:nothing-earlier"


def test_reading_is_free_and_a_key_says_who_it_is(client_over, store_folder):
    elsewhere = {"sec-fetch-site": "cross-site"}
    assert client_over(store_folder).get("/v1/products", headers=elsewhere).status_code == 200
    given, key = generate_key("office", ["operate"])
    client = client_over(store_folder, api_keys=key.to_line(), local=store_folder.parent / "other")
    answer = client.post(ROLLBACK, headers={**elsewhere, "Authorization": f"Bearer {given}"})
    assert answer.status_code == 409
