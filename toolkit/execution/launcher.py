"""torch's or Accelerate's launcher, without its report where a process fails.

The process that fails has printed why; the launcher would add forty lines: its own traceback, and a table of
the processes that it stopped.

usage: python -m toolkit.execution.launcher torchrun|accelerate WORDS...
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from toolkit.base.console import tell


def main(arguments: Sequence[str]) -> int:
    """Launch, and return the exit status of the process that failed first; a signal n is 128 + n."""
    launcher, *words = arguments
    logging.disable(logging.ERROR)  # of this process: the launched ones have their own
    sys.argv = [launcher, *words]
    try:
        if launcher == "accelerate":
            from accelerate.commands.launch import main as launch
        else:
            from torch.distributed.run import main as launch
        launch()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            tell(f"error: the process of rank {rank} was ended by {name}")
            return 128 - failure.exitcode
        return failure.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
