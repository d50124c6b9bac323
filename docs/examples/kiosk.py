"""
A ticket machine in Tkinter: people log in, or do not, buy, and walk away.

    HEAP_AGENT_APP_ID=11 python kiosk.py --idle 60

One machine, many visitors: what one does must not be taken for another's. The agent's
verbs cost microseconds and never wait, so that they are called right where a button is
pressed. What may wait is done before there is a window, and after it was closed.
"""

import argparse
import tkinter as tk
from collections.abc import Callable
from functools import partial

from heap_agent import Agent

TICKETS = {"Single": 2.9, "Day": 8.5, "Bicycle": 3.6}

WELCOME = "Welcome! Choose a ticket,\nor give the number of your card first."


class Kiosk:
    """The window, and whoever stands before it."""

    def __init__(self, window: tk.Tk, agent: Agent, idle: float) -> None:
        self._window, self._agent = window, agent
        self._idle = round(1000 * idle)
        self._timer = ""  # runs while there is a visit
        # Whoever was here when the power failed has gone meanwhile.
        agent.new_visitor()
        self._build()
        self._show(WELCOME)
        # Anything that anybody does, wherever.
        window.bind_all("<ButtonPress>", self._touched)
        window.bind_all("<KeyPress>", self._touched)

    def _touched(self, _: object) -> None:
        if self._timer:
            self._window.after_cancel(self._timer)
        else:
            self._agent.track("Visit Began")
        self._timer = self._window.after(self._idle, self._walk_off)

    def _log_in(self, _: object) -> None:
        card = self._card.get().strip()
        self._card.delete(0, tk.END)
        if not card:
            return
        # What was bought during this visit so far is theirs from now on.
        self._agent.identify(card)
        if self._agent.identity == card:
            self._show("Good to see you again!\nChoose a ticket.")
        else:
            # Many cards have such a number (all zeros, say), so that the agent refuses it.
            self._show("Sorry, this card cannot be read.\nYou can buy without it.")

    def _buy(self, kind: str) -> None:
        self._agent.track("Ticket Bought", {"kind": kind, "euros": TICKETS[kind]})
        # Kept for somebody who logs in later during this visit, and else forgotten.
        self._agent.add_user_properties({"Last Ticket": kind})
        self._show(f"{kind} ticket: here you are.\nAnother one?")

    def _log_out(self) -> None:
        self._end_visit("log out")
        self._agent.reset_identity()
        self._show(WELCOME)

    def _walk_off(self) -> None:
        self._end_visit("idle")
        # reset_identity would not part the next visitor from one who did not log in.
        self._agent.new_visitor()
        self._show(WELCOME)
        self._card.delete(0, tk.END)

    def _end_visit(self, reason: str) -> None:
        # As long as the agent knows whose it was.
        self._agent.track("Visit Ended", {"reason": reason})
        self._window.after_cancel(self._timer)
        self._timer = ""

    def _build(self) -> None:
        window = self._window
        window.title("Tickets")
        window.option_add("*Font", "TkDefaultFont 16")
        # There may be no window manager to ask for the whole screen, nor for the keys.
        window.geometry(f"{window.winfo_screenwidth()}x{window.winfo_screenheight()}+0+0")
        window.grid_rowconfigure((0, 1, 2), weight=1, uniform="rows")
        window.grid_columnconfigure((0, 1, 2), weight=1, uniform="columns")
        self._text = tk.Label(window)
        self._text.grid(row=0, columnspan=3, sticky=tk.NSEW)
        # Readers of cards type the number and Return, too.
        self._card = tk.Entry(window, justify=tk.CENTER, show="•")
        self._card.grid(row=1, columnspan=2, sticky=tk.NSEW)
        self._card.bind("<Return>", self._log_in)
        self._card.focus_force()
        self._leave = self._button(1, 2, "Log out", self._log_out)
        for column, (kind, euros) in enumerate(TICKETS.items()):
            self._button(2, column, f"{kind}\n{euros:.2f} €", partial(self._buy, kind))

    def _button(self, row: int, column: int, text: str, press: Callable[[], None]) -> tk.Button:
        # For fingers only: what is typed is the number of a card.
        button = tk.Button(self._window, text=text, command=press, takefocus=False)
        button.grid(row=row, column=column, sticky=tk.NSEW)
        return button

    def _show(self, text: str) -> None:
        known = self._agent.identity is not None
        self._text.config(text=text)
        self._leave.config(state=tk.NORMAL if known else tk.DISABLED)
        self._card.config(state=tk.DISABLED if known else tk.NORMAL)


def main() -> None:
    parser = argparse.ArgumentParser(description="Sells tickets.")
    parser.add_argument("--idle", type=float, default=60, help="seconds until nobody is there")
    seconds = parser.parse_args().idle
    # Once the window is closed there is a last delivery; what is left stays on the disk.
    with Agent() as agent:
        window = tk.Tk()
        Kiosk(window, agent, seconds)
        window.mainloop()


if __name__ == "__main__":
    main()
