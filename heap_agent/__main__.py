"""
``python -m heap_agent``: the command line.
"""

import sys

if __name__ == "__main__":
    try:
        from heap_agent._tools.cli import main

        code = main()
    except KeyboardInterrupt:  # while it was imported
        code = 130
    sys.exit(code)
