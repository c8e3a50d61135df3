"""`python -m podrelay_workers.watcher`: the command `podrelay watcher`, under its former name."""

from __future__ import annotations

import sys

from podrelay_workers.command import main

sys.exit(main(["watcher", *sys.argv[1:]]))
