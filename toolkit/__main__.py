"""`python -m toolkit`, the same as `toolkit`; stages of a folder and of a launch run so."""

import os
import sys

from toolkit.cli.main import main
from toolkit.execution.launching import PARENT
from toolkit.runtime import signals, upstream_private

if __name__ == "__main__":
    is_stage = PARENT in os.environ
    status = signals.exit_status(main())
    # DistributedDataParallel never lets go of gloo's threads (torch 2.13, even after destroy_process_group):
    # the interpreter's end aborted in 8 of 44 finished runs of two processes.
    is_launched = os.environ.get("WORLD_SIZE", "1") != "1"
    if is_stage and not is_launched:
        # The next stage waits for this process. Taking torch, transformers and trl apart took 1.8 s on a busy
        # machine; the functions that libraries registered for the exit, and `os._exit`, 0.05 s.
        upstream_private.run_exit_functions()
    if is_stage or is_launched:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
