"""`python -m podrelay_workers.launcher`: the command `podrelay launcher`, under its former name."""

from __future__ import annotations

import sys

from podrelay_workers.command import main

sys.exit(main(["launcher", *sys.argv[1:]]))
