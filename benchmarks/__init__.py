"""
What the package costs, measured. See README.md beside this file.
"""

import os
import sys

#: In the environment of processes that measure without orjson.
STDLIB = "BENCHMARKS_STDLIB"

if STDLIB in os.environ:
    sys.modules["orjson"] = None  # type: ignore[assignment]
