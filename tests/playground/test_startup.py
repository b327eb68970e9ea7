"""The page is served before torch is imported, and shows its models while they load."""

from __future__ import annotations

import select
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from tests.playground.conftest import Server, serving
from tests.playground.test_chat import asked
from tests.playground.test_load import read_until, sent
from toolkit.base.errors import ToolkitError, UsageError
from toolkit.playground.library import Entry, Library, Loader, entries_of
from toolkit.playground.serve import listen


def test_the_server_imports_no_large_library_before_it_serves():
    code = (
        "import sys, toolkit.playground.serve, toolkit.playground.library\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'scipy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.slow
def test_the_page_answers_while_torch_is_imported(model_folder, tmp_path):
    command = [sys.executable, "-m", "toolkit", "playground", str(model_folder), "--port", "0"]
    command += ["--feedback", str(tmp_path / "feedback.sqlite")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().strip()
        server = Server(int(address.rstrip("/").rpartition(":")[2]), tmp_path)
        with closing(sent(server, asked(model_folder, "x"))) as chat:
            assert server.request("GET", "/")[0] == server.request("GET", "/js/main.js")[0] == 200
            (listed,) = server.get("/api/models")["models"]
            assert (listed["state"], listed["parameters"]) == ("closed", None)
            assert select.select([chat], [], [], 0)[0] == []  # it still waits for torch
            found = b""
            while b'"done"' not in found:
                found += chat.recv(4096)
        (listed,) = server.get("/api/models")["models"]
        assert listed["state"] == "ready" and listed["parameters"] > 0
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def library_of(*references: str) -> Library:
    return Library([Entry(name, name, None, "language") for name in references])


def test_a_model_loads_once_and_is_loading_meanwhile(monkeypatch):
    opened, go = [], threading.Event()

    def slowly(name):
        go.wait(20)
        opened.append(name)
        return object()

    monkeypatch.setattr("toolkit.inference.opening.open_model", slowly)
    library = library_of("a", "b")
    futures = [library.opening(name) for name in ("a", "b", "a", "a")]
    assert library.state("a") == library.state("b") == "loading" and library.loaded("a") is None
    assert not futures[0].cancel()  # others wait for it, too
    go.set()
    engines = [future.result(20) for future in futures]
    assert engines[0] is engines[2] is engines[3] is library.loaded("a") and opened == ["a", "b"]
    assert library.state("a") == "ready"


def test_a_model_loads_before_what_may_come_later():
    loader, done, go = Loader(), [], threading.Event()
    first = loader.submit(lambda: go.wait(20))
    later = [loader.submit(lambda n=n: done.append(n), later=True) for n in range(2)]
    model = loader.submit(lambda: done.append("model"))
    go.set()
    assert first.result(20)
    for future in (*later, model):
        future.result(20)
    assert done == ["model", 0, 1]


def test_a_model_that_cannot_be_loaded_is_told_and_the_others_load(monkeypatch):
    def load(name):
        if name == "broken":
            raise RuntimeError("size mismatch")
        return object()

    monkeypatch.setattr("toolkit.inference.opening.open_model", load)
    library = library_of("broken", "fine")
    with pytest.raises(ToolkitError, match="cannot be loaded: size mismatch"):
        library.engine("broken")
    assert library.engine("fine") is not None
    assert (library.state("broken"), library.state("fine")) == ("failed", "ready")


def test_a_folder_that_cannot_be_loaded_is_an_error_of_its_requests(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with serving([str(tmp_path / "empty")], tmp_path) as server:
        status, error = server.refused("/api/models/open", {"model": str(tmp_path / "empty")})
        assert status == 422 and error["what"]
        events = server.events("/api/chat", asked(tmp_path / "empty", "x"))
        assert events[-1]["event"] == "error" and events[-1]["error"]["what"] == error["what"]


def test_reward_models_are_known_by_their_files(tmp_path):
    for name, architecture in (("reward", "GPT2ForSequenceClassification"), ("chat", "LlamaForCausalLM")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f'{{"architectures": ["{architecture}"]}}')
    entries = entries_of([str(tmp_path / "reward"), str(tmp_path / "chat"), "owner/model"], tmp_path)
    assert [entry.kind for entry in entries] == ["reward", "language", "language"]


@pytest.mark.parametrize(
    ("file", "content", "kind"),
    [
        ("adapter_config.json", '{"task_type": "CAUSAL_LM"}', "language"),
        ("adapter_config.json", '{"task_type": "SEQ_CLS"}', "reward"),
        ("model.gguf", "", "language"),
    ],
    ids=["adapter", "adapter-of-a-reward-model", "gguf"],
)
def test_a_folder_that_loads_without_config_json_is_a_model(tmp_path, file, content, kind):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / file).write_text(content)
    (entry,) = entries_of([str(tmp_path / "model")], tmp_path)
    assert (entry.kind, entry.reference) == (kind, str(tmp_path / "model"))


def test_a_run_is_named_as_the_page_calls_it_or_by_its_folder(model_folder, tmp_path):
    (tmp_path / "tiny").mkdir()
    shutil.copytree(model_folder, tmp_path / "tiny" / "sft")
    (named,), (folder,) = entries_of(["tiny/sft"], tmp_path), entries_of([f"{tmp_path}/tiny/sft/"], tmp_path)
    assert (named.id, named.reference) == ("tiny/sft", str(tmp_path / "tiny" / "sft"))
    assert (folder.id, folder.reference) == (str(tmp_path / "tiny" / "sft"), str(tmp_path / "tiny" / "sft"))
    (hub,) = entries_of(["owner/model"], tmp_path)
    assert (hub.id, hub.reference) == ("owner/model", "owner/model")


@pytest.mark.parametrize(
    ("names", "problem", "fix"),
    [
        (["runs/tiny/sft"], "there is no such folder", "name a run, a model folder or a Hub id"),
        (["/nowhere"], "there is no such folder", "name a run"),
        (["."], "there is no model in this folder", "toolkit playground --runs-dir ."),
        ([], "there is no finished run with a model", "toolkit run recipes/tiny"),
    ],
)
def test_what_cannot_be_a_model_is_told_before_the_page_opens(tmp_path, monkeypatch, names, problem, fix):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=problem) as caught:
        entries_of(names, tmp_path / "runs")
    assert fix in caught.value.fix


def test_an_address_that_cannot_be_used_is_told_with_what_to_change(server):
    with pytest.raises(ToolkitError, match="in use") as caught:
        listen("127.0.0.1", server.port)
    assert "--port" in caught.value.fix
    with pytest.raises(ToolkitError, match="cannot listen") as caught:
        listen("192.0.2.1", 0)  # reserved for documentation: no machine has it
    assert "--host" in caught.value.fix


@pytest.mark.slow
def test_ctrl_c_ends_the_requests_without_a_traceback(model_folder, tmp_path):
    command = [sys.executable, "-m", "toolkit", "playground", str(model_folder), "--port", "0"]
    command += ["--feedback", str(tmp_path / "feedback.sqlite")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        server = Server(int(process.stdout.readline().strip().rstrip("/").rpartition(":")[2]), tmp_path)
        server.post("/api/models/open", {"model": str(model_folder)})
        waiting = [
            sent(server, {"voter": "kim", "models": [str(model_folder)], "prompt": "x"}, "/api/compare/next")
        ]
        waiting += [
            sent(server, asked(model_folder, "x", sampling={"max_new_tokens": 50})) for _ in range(20)
        ]
        read_until(waiting[-1], b"event")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        for connection in waiting:
            connection.close()
    assert process.returncode == 130 and "Traceback" not in said and "Error" not in said
