"""
Log records as events: what a program logs as a warning, or worse, is an event at Heap.

    HEAP_AGENT_APP_ID=11 python logging_handler.py
"""

import logging

import heap_agent as heap


class HeapHandler(logging.Handler):
    """
    Tracks each record as an event. `track` may be called from any thread, and from
    inside of logging; it never waits for the network.
    """

    def emit(self, record: logging.LogRecord) -> None:
        # What the agent itself says of a fault would be the next fault.
        if record.name.partition(".")[0] == "heap_agent":
            return
        try:
            heap.track(
                "Log Record",
                {
                    "level": record.levelname,
                    "logger": record.name,
                    "message": record.getMessage(),
                    "place": f"{record.module}:{record.lineno}",
                    "exception": record.exc_info[0].__name__ if record.exc_info else "",
                },
            )
        except Exception:
            self.handleError(record)


def main() -> None:
    heap.init()  # the app id comes from the environment, or from a config file
    logging.basicConfig(level=logging.INFO)
    logging.getLogger().addHandler(HeapHandler(logging.WARNING))

    log = logging.getLogger("pump")
    log.info("started")  # on the console only
    log.warning("pressure is low: %.1f bar", 0.8)
    try:
        raise ConnectionError("the pump does not answer")
    except ConnectionError:
        log.exception("no flow")


if __name__ == "__main__":
    main()
