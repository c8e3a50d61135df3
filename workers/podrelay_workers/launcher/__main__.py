"""`python -m podrelay_workers.launcher`: one launcher."""

from __future__ import annotations

import sys

from podrelay_workers.runtime.start import main

sys.exit(main("launcher"))
