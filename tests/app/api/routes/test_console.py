"""The console's files over HTTP; how it behaves in a browser is in tests/web."""

import re

from app.api.assets import WEB


def test_the_page_and_every_file_that_it_names_are_served(client):
    page = client.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    names = set(re.findall(r'"/console/([\w.]+)"', page.text))
    names |= {name for module in WEB.glob("*.js") for name in re.findall(r'from "\./([\w.]+)"', module.read_text())}
    assert {"main.js", "style.css", "words.js"} <= names
    for name in names:
        assert client.get(f"/console/{name}").content == (WEB / name).read_bytes()


def test_nothing_is_loaded_from_elsewhere(client):
    policy = client.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    for path in WEB.iterdir():
        assert set(re.findall(r"https?://[\w./]+", path.read_text())) <= {"http://www.w3.org/2000/svg"}


def test_a_browser_that_has_a_file_is_not_sent_it_again(client):
    etag = client.get("/console/main.js").headers["etag"]
    again = client.get("/console/main.js", headers={"if-none-match": etag})
    assert (again.status_code, again.content) == (304, b"")


def test_nothing_but_the_console_s_files_is_served(client):
    for name in ("settings.py", "..%2Fsettings.py", "%2e%2e/settings.py", "absent.js"):
        answer = client.get(f"/console/{name}")
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:goodpart:problem:not-found")
