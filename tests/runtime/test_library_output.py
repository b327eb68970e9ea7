import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from toolkit.runtime import library_output

REPORT = """\x1b[1mGPT2ForSequenceClassification LOAD REPORT\x1b[0m from: runs/tiny/sft/model
Key          | Status  | 
-------------+---------+-
score.weight | MISSING | 
"""  # noqa: W291


def test_only_unimportant_messages_are_hidden(monkeypatch):
    logger = logging.getLogger("transformers")
    handler, shown = logging.Handler(), []
    handler.emit = lambda record: shown.append(record.getMessage())
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    with warnings.catch_warnings():
        library_output.quiet()
    child = logging.getLogger("transformers.modeling_utils")
    important = [
        REPORT + "h.0.attn.weight | \x1b[38;5;208mUNEXPECTED\x1b[0m | \n",
        "Token indices sequence length is longer than the maximum",
    ]
    for message in (REPORT, "`torch_dtype` is deprecated! Use `dtype` instead!", *important):
        child.warning(message)
    child.error("deprecated, and now an error")
    assert shown == [*important, "deprecated, and now an error"]


@pytest.mark.parametrize(("options", "hidden"), [([], True), (["-W", "default"], False)])
def test_future_warnings_are_hidden_unless_the_user_asks(options, hidden):
    code = (
        "import warnings; from toolkit.runtime import library_output; library_output.quiet();"
        "warnings.warn('old name', FutureWarning); warnings.warn('about the data')"
    )
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ("old name" not in done.stderr) == hidden and "about the data" in done.stderr
