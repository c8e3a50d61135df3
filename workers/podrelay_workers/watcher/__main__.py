"""`python -m podrelay_workers.watcher`: one watcher."""

from __future__ import annotations

import sys

from podrelay_workers.watcher.process import main

sys.exit(main())
