"""The benchmarks are not installed: they stand beside the tests."""

import sys
from pathlib import Path

# At the end, so that the package is still the one that is installed.
sys.path.append(str(Path(__file__).parents[2]))
