"""``python -m podrelay_workers.warm_pod``."""

import sys

from podrelay_workers.warm_pod.process import main

if __name__ == "__main__":
    sys.exit(main())
