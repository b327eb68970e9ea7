"""The frame of the server: pages, models, refusals."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.playground.conftest import serving

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
        ("GET", "/api/runs", None),
        ("POST", "/api/chat/open", {"model": name}),
    ]
    with serving([name], tmp_path) as running:
        for method, path, body in requests[::order]:
            status, _, answer = running.request(method, path, body)
            assert status == 200 and b'"event": "error"' not in answer, (path, answer)


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
