"""
Starts the command line, and ends quietly when somebody interrupts that.

Outside of the package, whose import alone takes seconds on a small device: a Ctrl-C
in that time is answered here, without a traceback.
"""

import sys

__all__ = ["main"]


def main() -> int:
    """
    Run one command, and return the exit code.
    """
    try:
        from heap_agent._tools import cli

        return cli.main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
