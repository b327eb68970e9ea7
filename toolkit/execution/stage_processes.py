"""The processes of a folder's stages: started, preloaded, watched and stopped together."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType

from toolkit.config.loader import LoadedRecipe
from toolkit.execution import launching
from toolkit.execution.launching import PreloadedStage, RunOptions, StageProcess
from toolkit.execution.stage_output import StageOutput


@dataclass(frozen=True)
class _Line:
    """A line that a stage has printed."""

    name: str
    text: str


@dataclass(frozen=True)
class _Loaded:
    """A preloaded stage has loaded its libraries, or has failed to."""

    name: str


@dataclass(frozen=True)
class Ended:
    """A stage's process has ended.

    Attributes:
        name: of the stage's run.
        status: the exit status.
    """

    name: str
    status: int


class StageProcesses:
    """Runs stages in processes; leaving the context stops those that still run.

    Threads wait for the processes and read their output. All of it is shown by the thread that calls `wait`.

    Args:
        options: of `toolkit run`.
        output: shows the output of the stages; None lets them write to this process's stderr.
    """

    def __init__(self, options: RunOptions, output: StageOutput | None = None):
        self._options, self._output = options, output
        self._events: SimpleQueue[_Line | _Loaded | Ended] = SimpleQueue()
        self._running: dict[str, StageProcess] = {}
        self._watching: list[threading.Thread] = []
        self._preloaded: dict[str, PreloadedStage] = {}
        self._early: dict[str, list[str]] = {}
        self.is_loading = False
        """Whether a preloaded stage has not loaded its libraries yet."""

    def __enter__(self) -> StageProcesses:
        return self

    @property
    def running(self) -> list[str]:
        """The names of the running stages."""
        return list(self._running)

    @property
    def preloaded(self) -> list[str]:
        """The names of the stages that load their libraries, or wait for their turn."""
        return list(self._preloaded)

    def has_preloaded(self, name: str) -> bool:
        """Return whether `preload` was called for a stage, even if its process has failed since."""
        return name in self._early

    def preload(self, loaded: LoadedRecipe) -> None:
        """Load the libraries of a stage in the process that `start` will use."""
        process = PreloadedStage(loaded, self._options, captured=self._output is not None)
        self._preloaded[loaded.name] = process
        self._early[loaded.name] = []
        self.is_loading = True
        self._watch(loaded.name, process)

        def wait() -> None:
            process.wait_until_loaded()
            self._events.put(_Loaded(loaded.name))

        threading.Thread(target=wait, daemon=True).start()

    def start(self, loaded: LoadedRecipe) -> None:
        """Start a stage, in its preloaded process if there is one."""
        preloaded = self._preloaded.pop(loaded.name, None)
        if preloaded is not None:
            self._running[loaded.name] = preloaded
            preloaded.start()
            for line in self._early[loaded.name]:
                self._show(loaded.name, line)
            return
        process = launching.start(loaded, self._options, captured=self._output is not None)
        self._running[loaded.name] = process
        self._watch(loaded.name, process)

    def wait(self) -> Ended | None:
        """Show output until a stage ends; return None when a preloaded stage has loaded its libraries."""
        while True:
            event = self._events.get()
            if self._handle(event):
                return event if isinstance(event, Ended) else None

    def stop(self) -> None:
        """Interrupt all stages and wait until they have saved what they can; a second signal kills them."""
        while self._preloaded:
            self._preloaded.popitem()[1].discard()
        for process in self._running.values():
            process.interrupt()
        try:
            self._wait_for_all()
        except KeyboardInterrupt:
            for process in self._running.values():
                process.kill()
            self._wait_for_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _handle(self, event: _Line | _Loaded | Ended) -> bool:
        """Show a line, or record another event; return whether `wait` must return."""
        if isinstance(event, _Line):
            if event.name in self._preloaded:
                self._early[event.name].append(event.text)
            elif event.name in self._running:
                self._show(event.name, event.text)
            return False
        if isinstance(event, _Loaded):
            self.is_loading = False
            return True
        if self._preloaded.pop(event.name, None) is not None:
            return False  # it failed to load; it is started again in its turn, and shows why
        if self._output is not None:
            self._output.end(event.name)
        return self._running.pop(event.name, None) is not None

    def _show(self, name: str, line: str) -> None:
        if self._output is not None:
            self._output.show(name, line)

    def _wait_for_all(self) -> None:
        # An interrupt may have lost an event, so the threads decide when all processes have ended.
        while any(thread.is_alive() for thread in self._watching) or not self._events.empty():
            with suppress(Empty):
                self._handle(self._events.get(timeout=0.1))
        self._running.clear()

    def _watch(self, name: str, process: StageProcess) -> None:
        def watch() -> None:
            if process.child.stdout is not None:
                with process.child.stdout as lines:
                    for line in lines:
                        self._events.put(_Line(name, line.decode(errors="replace")))
            self._events.put(Ended(name, process.wait()))

        thread = threading.Thread(target=watch, daemon=True)
        self._watching.append(thread)
        thread.start()
