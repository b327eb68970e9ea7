"""`toolkit chat` through a pipe and in a terminal, and the context that the model receives."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time

import pytest

from toolkit.base.errors import ToolkitError
from toolkit.cli import conversation as conversation_module
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.opening import open_model

PROGRAM = """
import signal, sys, threading, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # before torch starts threads
from toolkit.cli.conversation import chat_command
from toolkit.inference import sampling
from toolkit.inference.generation import GenerationSettings

def slowly(*arguments, steps=sampling.steps, **settings):
    for step in steps(*arguments, **settings):
        time.sleep(0.05)  # answers of the tiny model would end before they are stopped
        yield step

def interrupt_beside():
    signal.sigwait({signal.SIGUSR1})
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

sampling.steps = slowly
threading.Thread(target=interrupt_beside, daemon=True).start()
sys.exit(chat_command(sys.argv[1], choice=GenerationSettings(max_new_tokens=90, seed=4)))
"""
"""A chat of 4 s an answer. After SIGUSR1 a thread takes a SIGINT on itself: the flag of a Ctrl-C is set, and
no system call of the main thread is interrupted."""


@pytest.fixture(scope="module")
def opened(folder):
    return open_model(str(folder))


def talk(folder, lines, monkeypatch, capsys, **settings):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
    assert (
        conversation_module.chat_command(
            str(folder), choice=GenerationSettings(**{"max_new_tokens": 8, "seed": 4, **settings})
        )
        == 0
    )
    return capsys.readouterr()


def test_piped_stdout_contains_only_answers(folder, monkeypatch, capsys):
    lines = ["the fox?", "and the bear?", "/quit", "never asked"]
    first, second = (talk(folder, lines, monkeypatch, capsys) for _ in range(2))
    assert first.out == second.out and first.out.count("\n") >= 2
    assert ">" not in first.out.replace("<|", "").replace("|>", "")


def test_reset_repeats_answers_and_another_seed_changes_them(folder, monkeypatch, capsys):
    out = talk(folder, ["the fox?", "/reset", "the fox?"], monkeypatch, capsys).out
    half = len(out) // 2
    assert out[:half] == out[half:]
    assert talk(folder, ["/seed 9", "the fox?"], monkeypatch, capsys).out != out[:half]


def test_earlier_turns_affect_the_answer(folder, opened):
    one, two = (conversation_module.Conversation(opened, GenerationSettings()) for _ in range(2))
    one.messages = [{"role": "user", "content": "bear"}]
    two.messages = [{"role": "user", "content": "fox"}, {"role": "assistant", "content": "a"}, *one.messages]
    two.system = "be kind"
    assert opened.tokenizer.decode(one.fit()[0]) == "<|user|>bear<|assistant|>"
    text = "<|system|>be kind<|user|>fox<|assistant|>a<|endoftext|><|user|>bear<|assistant|>"
    assert opened.tokenizer.decode(two.fit()[0]) == text


def test_full_context_drops_oldest_turns_with_a_notice(folder, monkeypatch, capsys):
    out = talk(
        folder, [f"the fox and the bear and the hare number {i}" for i in range(6)], monkeypatch, capsys
    )
    assert "forgotten" in out.err and "forgotten" not in out.out


def test_full_context_keeps_the_system_message(opened):
    conversation = conversation_module.Conversation(
        opened, GenerationSettings(max_new_tokens=8), system="be kind"
    )
    for i in range(12):
        conversation.messages += [
            {"role": "user", "content": f"number {i} of the foxes"},
            {"role": "assistant", "content": "yes"},
        ]
    conversation.messages.append({"role": "user", "content": "last"})
    ids, dropped = conversation.fit()
    text = opened.tokenizer.decode(ids)
    assert text.startswith("<|system|>be kind<|user|>") and text.endswith("<|user|>last<|assistant|>")
    assert dropped and dropped % 2 == 0 and len(ids) + 8 <= opened.context_length


def test_too_long_message_is_refused_and_removed(opened):
    conversation = conversation_module.Conversation(opened, GenerationSettings())
    with pytest.raises(ToolkitError, match="too long"):
        conversation_module.ask(conversation, "fox " * 200)
    assert conversation.messages == []


def test_undo_retry_and_settings(opened, capsys):
    conversation = conversation_module.Conversation(
        opened, GenerationSettings(max_new_tokens=12, temperature=2.0, seed=1)
    )
    for line in ("one fox", "two foxes", "/undo"):
        conversation_module.respond(conversation, line)
    assert conversation.messages[0]["content"] == "one fox"
    assert len(conversation.messages) == 2
    before = conversation.messages[1]["content"]
    conversation_module.respond(conversation, "/retry")
    assert len(conversation.messages) == 2 and conversation.messages[1]["content"] != before
    conversation_module.respond(conversation, "/temperature 0.25")
    conversation_module.respond(conversation, "/max-new-tokens 3")
    assert (conversation.choice.temperature, conversation.choice.max_new_tokens) == (0.25, 3)
    conversation_module.respond(conversation, "/temperature hot")
    with pytest.raises(ToolkitError, match="temperature"):
        conversation_module.respond(conversation, "/temperature -1")
    assert conversation.choice.temperature == 0.25
    conversation_module.respond(conversation, "/dance")
    assert "no command /dance" in capsys.readouterr().err


def test_non_chat_models_print_a_warning(plain_folder, monkeypatch, capsys):
    out = talk(plain_folder, ["the fox"], monkeypatch, capsys)
    assert "no chat template" in out.err


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, *arguments: str):
        self.master, slave = pty.openpty()
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            start_new_session=True,
            preexec_fn=_control_terminal,
            **streams,
        )
        os.close(slave)

    def write(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, pattern: str, *, seconds: float = 60) -> str:
        """Read until the new text matches a pattern, and return it."""
        deadline, new = time.monotonic() + seconds, ""
        while not re.search(pattern, new, re.DOTALL):
            assert time.monotonic() < deadline, f"{pattern!r} did not come in {new!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    new += os.read(self.master, 4096).decode(errors="replace")
                except OSError:  # the other end was closed
                    break
        assert re.search(pattern, new, re.DOTALL), new
        return new

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


def _control_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def terminal(folder):
    program = Terminal(str(folder))
    yield program
    program.close()


def test_terminal_ctrl_c_stops_the_answer_and_ctrl_d_exits(terminal):
    """Also a Ctrl-C that readline did not see is noticed at the prompt: one that comes between the prompt and
    readline's select(), which then waits for a key."""
    terminal.wait_for(r"/help.*> ")
    time.sleep(0.5)  # the program is in select() by now
    terminal.process.send_signal(signal.SIGUSR1)
    terminal.wait_for(r"Ctrl-D ends.*> ", seconds=20)
    terminal.write("/temperature 5\n")  # such an answer hardly ends by itself
    terminal.wait_for(r"\[temperature 5.0\].*> ")
    terminal.write("the fox?\n")
    # readline disables bracketed paste after the line; output after that belongs to the answer
    terminal.wait_for(r"the fox\?\s+(\x1b\[\?2004l)?\s*[^\x1b\s]")
    terminal.write("\x03")
    terminal.wait_for(r"\[stopped\].*> ")
    terminal.write("/settings\n")
    terminal.wait_for(r"max_new_tokens=90.*> ")
    terminal.write("\x03")
    terminal.wait_for(r"Ctrl-D ends.*> ")
    terminal.write("\x04")
    assert terminal.process.wait(timeout=20) == 0


def test_ctrl_c_outside_an_answer_does_not_exit(opened, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    conversation = conversation_module.Conversation(opened, GenerationSettings(max_new_tokens=4))
    monkeypatch.setattr("builtins.input", lambda prompt: "the fox?")
    with monkeypatch.context() as patch:
        patch.setattr(conversation_module.Conversation, "fit", interrupt)
        assert conversation_module.turn(conversation, interactive=True)
    assert conversation.messages == [] and "[stopped]" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(conversation_module, "respond", interrupt)
        assert conversation_module.turn(conversation, interactive=True)
        monkeypatch.setattr(sys, "stdin", io.StringIO("the fox?\n"))
        with pytest.raises(KeyboardInterrupt):  # an interrupted script exits
            conversation_module.turn(conversation, interactive=False)
    assert "Ctrl-D ends" in capsys.readouterr().err
    assert conversation_module.turn(conversation, interactive=True)
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]
