"""The benchmarks are not installed: they stand beside the tests, or are not there."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# At the end, so that the package is still the one that is installed.
sys.path.append(str(ROOT))

collect_ignore_glob = [] if (ROOT / "benchmarks" / "__main__.py").exists() else ["test_*.py"]
