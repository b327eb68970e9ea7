"""The frame of the server: pages, models, refusals."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.playground.conftest import serving
from toolkit.playground import serve
from toolkit.playground.app import Playground
from toolkit.playground.security import Access, Guard

POLICY = "default-src 'self'"


def test_the_page_and_its_files_are_served_with_a_policy(server):
    status, headers, body = server.request("GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert headers["content-security-policy"].startswith(POLICY)
    assert b'src="/js/main.js"' in body
    tag = server.request("GET", "/js/main.js")[1]["etag"]
    assert server.request("GET", "/js/main.js", headers={"if-none-match": tag})[0] == 304


def test_no_path_reaches_the_file_system(server):
    for path in ("/../pyproject.toml", "/%2e%2e/app.py", "/js/../../app.py", "/etc/passwd", "//etc/passwd"):
        assert server.request("GET", path)[0] == 404


def test_another_host_or_origin_is_refused(server):
    assert server.request("GET", "/", headers={"host": f"evil.example:{server.port}"})[0] == 421
    evil = {"origin": "http://evil.example"}
    assert server.request("POST", "/api/models/open", {"model": "x"}, headers=evil)[0] == 403
    assert server.request("GET", "/api/models", headers={"sec-fetch-site": "cross-site"})[0] == 403
    own = {"origin": server.url, "sec-fetch-site": "same-origin"}
    assert server.request("GET", "/api/models", headers=own)[0] == 200


def test_a_model_opens_when_it_is_asked_for(server, model_folder):
    (listed,) = server.get("/api/models")["models"]
    assert (listed["id"], listed["kind"]) == (str(model_folder), "language")
    opened = server.post("/api/models/open", {"model": str(model_folder)})
    assert (opened["state"], opened["context"], opened["vocabulary"]) == ("ready", 64, 261)
    assert server.refused("/api/models/open", {"model": "/etc"})[0] == 400


def test_a_token_is_asked_for_and_kept_in_a_cookie(model_folder, tmp_path):
    with serving([str(model_folder)], tmp_path, token="secret") as server:
        assert server.request("GET", "/")[0] == 401
        assert server.request("GET", "/?token=wrong")[0] == 401
        status, headers, _ = server.request("GET", "/?token=secret")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"].partition(";")[0]
        assert server.request("GET", "/", headers={"cookie": cookie})[0] == 200
        assert server.request("GET", "/api/models", headers={"authorization": "Bearer secret"})[0] == 200


def test_a_request_that_is_too_long_is_refused(server):
    assert server.request("POST", "/api/next", {"model": "x", "text": "a" * (2 << 20)})[0] == 413


@pytest.mark.parametrize("order", [1, -1], ids=["forwards", "backwards"])
def test_the_rooms_do_not_disturb_each_other(model_folder, tmp_path, order):
    name, text = str(model_folder), "a fox"
    requests = [
        ("POST", "/api/next", {"model": name, "text": text}),
        ("POST", "/api/surprise", {"models": [name], "text": text}),
        ("POST", "/api/attention", {"model": name, "text": text}),
        ("GET", "/api/attention/kept", None),
        ("POST", "/api/compare/setup", {"models": [name]}),
        ("POST", "/api/compare/statistics", {"models": [name]}),
        ("GET", "/api/runs", None),
        ("POST", "/api/chat/open", {"model": name}),
    ]
    with serving([name], tmp_path) as running:
        for method, path, body in requests[::order]:
            status, _, answer = running.request(method, path, body)
            assert status == 200 and b'"event": "error"' not in answer, (path, answer)


def test_cookies_of_other_programs_on_the_same_host_do_no_harm(model_folder, tmp_path):
    with serving([str(model_folder)], tmp_path, token="secret") as server:
        for others in (
            "a/b=1; {c}=2; toolkit_token=secret",
            "toolkit_token=secret; flag",
            'x="; toolkit_token=secret',
        ):
            assert server.request("GET", "/", headers={"cookie": others})[0] == 200
        assert server.request("GET", "/", headers={"cookie": "a/b=1; mytoolkit_token=secret"})[0] == 401


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("//evil.example/", "/evil.example/"),
        ("/a\r\nset-cookie: b=1", "/a%0D%0Aset-cookie%3A%20b%3D1"),
        ("/", "/?q=1"),
    ],
    ids=["another-host", "line-break", "query"],
)
def test_the_address_without_the_token_is_one_of_this_server(path, location):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"here:1")],
             "query_string": b"token=secret" + (b"&q=1" if path == "/" else b"")}  # fmt: skip
    guard = Guard(None, Access(frozenset({"here:1"}), "secret"))
    with ThreadPoolExecutor(1) as thread:  # browser tests leave a running loop in this one
        thread.submit(asyncio.run, guard(scope, None, send)).result()
    assert sent[0]["status"] == 303 and dict(sent[0]["headers"])[b"location"] == location.encode()


def test_a_browser_leaves_out_port_80_and_writes_names_in_lower_case(monkeypatch):
    monkeypatch.setattr(serve.socket, "gethostname", lambda: "Desk")
    assert serve._accepted("192.0.2.1", 80) == {"192.0.2.1", "192.0.2.1:80", "desk", "desk:80"}
    assert serve._accepted("127.0.0.1", 8765) == {"127.0.0.1:8765", "localhost:8765", "[::1]:8765"}


def test_rooms_that_cannot_be_imported_are_told_and_the_page_is_there(monkeypatch, model_folder, tmp_path):
    def broken(self):
        raise ImportError("no module named x")

    monkeypatch.setattr(Playground, "_with_rooms", broken)
    with serving([str(model_folder)], tmp_path) as server:
        status, error = server.refused("/api/next", {"model": str(model_folder), "text": "a"})
        assert status == 500 and "no module named x" in error["what"]
        assert server.request("GET", "/")[0] == 200 and server.get("/api/models")["models"]
        assert "no module" in server.refused("/v1/completions", {})[1]["message"]


def test_on_all_addresses_any_address_of_the_machine_is_accepted_but_no_other_name(model_folder, tmp_path):
    token = {"authorization": "Bearer secret"}
    with serving([str(model_folder)], tmp_path, token="secret", any_address=True) as running:
        for host, status in (
            ("198.51.100.7:8765", 200),
            ("[2001:db8::7]:8765", 200),
            ("evil.example:8765", 421),
            ("198.51.100.7.evil.example", 421),
            ("", 421),
        ):
            assert running.request("GET", "/api/models", headers={"host": host, **token})[0] == status, host
            assert running.request("GET", "/api/models", headers={"host": host})[0] in (401, 421)
        for origin, status in (("http://198.51.100.7:8765", 200), ("http://198.51.100.8:8765", 403)):
            headers = {"host": "198.51.100.7:8765", "origin": origin, **token}
            assert running.request("GET", "/api/models", headers=headers)[0] == status


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
@pytest.mark.parametrize("verb", ["playground", "explain"])
def test_without_the_extra_a_command_says_what_to_install(verb, missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from toolkit.cli.main import main\n"
        f"sys.exit(main([{verb!r}, 'x', '--output', 'y'] if {verb!r} == 'explain' else [{verb!r}]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (2, "")
    assert f"needs {missing}" in found.stderr and ".[playground]" in found.stderr
    assert "Traceback" not in found.stderr
