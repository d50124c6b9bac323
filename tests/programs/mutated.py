"""
A test run in a process whose agents are broken on purpose.

    mutated.py MUTANT TEST...

Exits as pytest does: 1 where a test has failed, as it must.
"""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import mutants  # noqa: E402

mutant, *tests = sys.argv[1:]
mutants.apply(mutant)
options = ["-q", "-x", "-c", str(TESTS.parent / "setup.cfg"), "--rootdir", str(TESTS.parent)]
sys.exit(pytest.main([*options, "-p", "no:cacheprovider", *(str(TESTS / test) for test in tests)]))
