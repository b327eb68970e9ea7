"""`python -m toolkit`, the same as `toolkit`."""

import os
import sys

from toolkit.cli.main import main
from toolkit.runtime import signals

if __name__ == "__main__":
    status = signals.exit_status(main())
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # DistributedDataParallel never lets go of gloo's threads (torch 2.13, even after
        # destroy_process_group): the interpreter's end aborted in 8 of 44 finished runs of two processes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
