"""
``python -m heap_agent``: the command line.
"""

import sys

from heap_agent._tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
