"""The process that the node starts for a pod of `forked_pods`. Run by `python -S -E`: it imports next to nothing.

Arguments: the socket of `forked_pods`, then the command that podrelay gave the pod. A pod that is not warm runs that itself.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "chaos"))  # noqa: PTH100, PTH118, PTH120

import pod  # type: ignore[import-not-found]  # noqa: E402

if pod.WARM not in sys.argv:
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606
sys.exit(pod.stand_for(sys.argv[1]))
