"""`python -m podrelay_workers.watcher`: one watcher."""

from __future__ import annotations

import sys

from podrelay_workers.runtime.start import main

sys.exit(main("watcher"))
