"""
A printer of the photo booth, in a process of its own: it takes a number of a photo a line,
and answers with it when that one is printed.

    HEAP_AGENT_APP_ID=11 python printer.py left
"""

import signal
import sys
import time

from heap_agent import Agent


def main(name: str) -> None:
    # Ctrl-C in a terminal goes to all processes; this one ends when its input does, which
    # is also when the window was killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Agent(app_name="photo_booth") as agent:
        for line in sys.stdin:
            time.sleep(0.1)  # the machine works
            agent.track("Photo Printed", {"photo": int(line), "printer": name})
            # In this order: what is answered for is recorded, even if the next line is
            # never reached.
            print(int(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
