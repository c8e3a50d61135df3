"""`python -m podrelay_workers`: the command `podrelay`."""

from __future__ import annotations

import sys

from podrelay_workers.command import main

sys.exit(main())
