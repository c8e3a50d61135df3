"""``python -m podrelay_local_cluster``: the same as the command ``podrelay-local-cluster``."""

from __future__ import annotations

import sys

from podrelay_local_cluster.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
