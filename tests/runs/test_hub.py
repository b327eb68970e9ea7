"""Models of the Hub: one attempt to reach it, then the cache; and the commit of a name is recorded."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import huggingface_hub
import peft
import pytest
import torch
import transformers

from tests.runs.small_runs import manifest_of
from toolkit.base.errors import ToolkitError
from toolkit.cli import main
from toolkit.config.schema import SftRecipe
from toolkit.models.loading import load_causal_lm, save_model
from toolkit.models.tokenizer_loading import load_tokenizer
from toolkit.runs import hub
from toolkit.runs.run import Run

OLD, NEW = "a" * 40, "b" * 40
NAME = "someone/model"


@pytest.fixture
def online(tmp_path, monkeypatch):
    """Let the libraries use a cache of their own and an endpoint of this machine, not the network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def use(endpoint):
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # transformers keeps a client with the endpoint of its first request
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
        hub._find.cache_clear()
        huggingface_hub.utils.close_session()

    yield use
    hub._find.cache_clear()
    huggingface_hub.utils.close_session()


@pytest.fixture
def closed_port(online):
    """The URL of a port that nobody listens on; connections that are made to it are refused."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    online(f"http://127.0.0.1:{port}")


@pytest.fixture
def cached(tmp_path, tiny_model, tiny_tokenizer):
    """A model in the cache, as a download leaves it."""
    storage = tmp_path / "cache" / "models--someone--model"
    save_model(tiny_model, tiny_tokenizer, storage / "snapshots" / OLD)
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(OLD)


@pytest.fixture
def sleeps(monkeypatch):
    """Count the pauses between the repeated requests of a library, which are not waited for."""
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    return pauses


def test_without_network_a_cached_model_loads_after_one_attempt(closed_port, cached, capsys, sleeps):
    model, tokenizer = load_causal_lm((NAME, None))
    assert model.num_parameters() > 0 and model.name_or_path == tokenizer.name_or_path == NAME
    told = capsys.readouterr().err
    assert told.count("the Hub cannot be reached") == 1 and f"cached commit {OLD[:12]}" in told
    assert hub.commit_of((NAME, None)) == hub.commit_of((NAME, "main")) == OLD
    assert load_tokenizer((NAME, OLD)).get_vocab() == tokenizer.get_vocab()
    assert sleeps == []


def test_without_network_a_model_that_is_not_cached_is_refused_after_one_attempt(closed_port, sleeps):
    for load in (load_causal_lm, load_tokenizer, hub.commit_of):
        with pytest.raises(ToolkitError, match="cannot be reached.*not in the cache") as caught:
            load((NAME, None))
        assert caught.value.where == NAME and "network access" in caught.value.fix
    with pytest.raises(ToolkitError, match="not in the cache"):
        load_tokenizer((NAME, "another-branch"))
    assert sleeps == []


def test_offline_mode_uses_the_cache_without_an_attempt(closed_port, cached, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert load_tokenizer((NAME, None)).name_or_path == NAME
    assert "cannot be reached" not in capsys.readouterr().err
    with pytest.raises(ToolkitError, match="HF_HUB_OFFLINE is set, and it is not in the cache"):
        load_tokenizer(("someone/else", None))


class Hub:
    """What the Hub answers about one model: its commits by revision, and its files."""

    def __init__(self, folder):
        self.folder, self.revisions, self.status, self.requests = folder, {"main": NEW}, 200, []

    def answer(self, handler, *, with_body):
        path = handler.path.partition("?")[0]
        self.requests.append(path)
        if self.status != 200:
            return self.send(handler, self.status, b"{}", {})
        words = path.strip("/").split("/")
        if words[:2] == ["api", "models"]:
            if words[4:5] == ["tree"]:
                return self.tree(handler, words[6:])
            revision = words[5] if len(words) > 5 else "main"
            if "/".join(words[2:4]) != NAME or revision not in self.revisions:
                return self.send(handler, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
            files = [{"rfilename": file.name} for file in self.folder.iterdir()]
            content = {"id": NAME, "sha": self.revisions[revision], "siblings": files}
            return self.send(handler, 200, json.dumps(content).encode(), {})
        file = self.folder / words[-1]
        if words[2:3] != ["resolve"] or not file.is_file():
            return self.send(handler, 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": NEW})
        content = file.read_bytes()
        headers = {"X-Repo-Commit": words[3], "ETag": f'"{file.name}"', "Content-Length": str(len(content))}
        return self.send(handler, 200, content if with_body else b"", headers)

    def tree(self, handler, subfolder):
        if subfolder:
            return self.send(handler, 404, b"{}", {"X-Error-Code": "EntryNotFound"})
        files = [
            {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name}
            for file in self.folder.iterdir()
        ]
        return self.send(handler, 200, json.dumps(files).encode(), {})

    def send(self, handler, status, content, headers):
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)


@contextmanager
def served(folder):
    answers = Hub(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answers.answer(self, with_body=True)

        def do_HEAD(self):
            answers.answer(self, with_body=False)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        answers.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield answers
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def the_hub(online, tmp_path, tiny_model, tiny_tokenizer):
    save_model(tiny_model, tiny_tokenizer, tmp_path / "served")
    with served(tmp_path / "served") as answers:
        online(answers.url)
        yield answers


def opened(folder, facts=None):
    loaded = SimpleNamespace(
        name="sft",
        recipe=SftRecipe(stage="sft", model="org/model", data={"name": "rows.jsonl"}),
        text="",
        overrides=(),
    )
    (folder / "sft").mkdir(parents=True, exist_ok=True)
    run = Run(loaded, runs_dir=folder, content=manifest_of(loaded, facts))
    run._write_manifest = lambda: None
    return run


def test_a_model_is_downloaded_at_the_commit_of_its_name(the_hub, tmp_path, tiny_model):
    model, _ = load_causal_lm((NAME, None))
    assert model.num_parameters() == tiny_model.num_parameters() and model.name_or_path == NAME
    assert sum(path == f"/api/models/{NAME}" for path in the_hub.requests) == 1
    resolved = {path.split("/")[4] for path in the_hub.requests if "/resolve/" in path}
    assert resolved == {NEW}, "a branch may move between two files"


def test_a_run_records_the_commit_and_keeps_it(the_hub, tmp_path):
    run = opened(tmp_path / "runs")
    assert run.model_reference(NAME) == (NAME, NEW) and run.reference(NAME) == f"{NAME}@{NEW}"
    assert run.decisions.hub_commits == {NAME: NEW}
    the_hub.revisions = {"main": OLD, "v1": OLD}
    hub._find.cache_clear()
    resumed = opened(tmp_path / "runs", run.manifest["facts"])
    assert resumed.model_reference(NAME) == (NAME, NEW), "main moved, the run did not"
    assert resumed.model_reference(f"{NAME}@v1") == (NAME, OLD)
    assert resumed.decisions.hub_commits == {NAME: NEW, f"{NAME}@v1": OLD}
    requests = len(the_hub.requests)
    assert opened(tmp_path / "other").model_reference(f"{NAME}@{OLD}") == (NAME, OLD)
    assert len(the_hub.requests) == requests, "a commit needs no question"


def test_an_evaluation_names_the_commit(the_hub, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the fox ran " * 20)
    local = str(the_hub.folder)
    assert main.main(["evaluate", NAME, local, "--data", str(tmp_path / "a.txt"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert rows["model"]["hub_commit"] == NEW and "hub_commit" not in rows["served"]


def test_a_folder_has_no_commit(tmp_path, tiny_model, tiny_tokenizer):
    save_model(tiny_model, tiny_tokenizer, tmp_path / "model")
    run = opened(tmp_path / "runs")
    assert run.model_reference(str(tmp_path / "model")) == (str(tmp_path / "model"), None)
    assert run.decisions.hub_commits is None


def test_an_unknown_name_is_not_looked_for_in_the_cache(the_hub, cached):
    for reference in (("someone/else", None), (NAME, "no-such-branch")):
        with pytest.raises(ToolkitError, match="cannot be loaded from the hub") as caught:
            load_tokenizer(reference)
        assert "check the name and the revision" in caught.value.fix


def test_a_hub_that_is_down_is_not_asked_again(the_hub, cached, sleeps, capsys):
    the_hub.status = 503
    assert load_causal_lm((NAME, None))[0].name_or_path == NAME
    assert len(the_hub.requests) == 1 and sleeps == []
    assert "status 503: using the cached commit" in capsys.readouterr().err


def test_pickles_and_gguf_files_of_the_hub_are_refused_before_they_are_downloaded(the_hub):
    weights = the_hub.folder / "model.safetensors"
    for name, words in (("pytorch_model.bin", "only pickles"), ("model.gguf", "only GGUF")):
        weights = weights.rename(the_hub.folder / name)
        hub._find.cache_clear()
        with pytest.raises(ToolkitError, match=words):
            load_causal_lm((NAME, None))
    assert not any("/resolve/" in path for path in the_hub.requests)
    load_tokenizer((NAME, None))  # needs no weights


def test_an_adapter_of_the_hub_is_merged(the_hub, tmp_path):
    shutil.copytree(the_hub.folder, tmp_path / "base")
    model, tokenizer = load_causal_lm((str(tmp_path / "base"), None))
    for path in the_hub.folder.iterdir():
        path.unlink()
    settings = peft.LoraConfig(
        target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False, fan_in_fan_out=True
    )
    adapter = peft.get_peft_model(model, settings).eval()
    adapter.save_pretrained(the_hub.folder)
    merged, own = load_causal_lm((NAME, None))
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapter(ids).logits, rtol=1e-4, atol=1e-5)
    assert own.get_vocab() == tokenizer.get_vocab()
