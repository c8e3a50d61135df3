"""`python -m podrelay_workers.launcher`: one launcher."""

from __future__ import annotations

import sys

from podrelay_workers.launcher.process import main

sys.exit(main())
