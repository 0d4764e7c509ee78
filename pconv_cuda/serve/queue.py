"""One piece of work at a time, in the order of arrival; clients can see their place and leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pconv_cuda.serve.settings import Refusal

__all__ = ["Gone", "Line", "Ticket"]

T = TypeVar("T")


class Gone(Exception):
    """The client has gone."""


@dataclass(eq=False)
class Ticket:
    """A place in the line. ``done`` of ``total`` pieces of its work are done; ``gone``: the client has left."""

    key: str = ""
    done: int = 0
    total: int = 0
    gone: bool = False
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    at_work: asyncio.Future | None = None

    def progress(self, done: int, total: int) -> None:
        """Called by the work, in its thread, after each piece.

        Raises:
            Gone: so that the device is free for the next one.
        """
        self.done, self.total = done, total
        if self.gone:
            raise Gone


class Line:
    """The first ticket's work runs in a thread of its own, all others wait. Used from one event loop.

    Args:
        most: how many may be in the line, the one at work among them.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._tickets: list[Ticket] = []
        self._thread = ThreadPoolExecutor(1, "pconv-fill")

    def __len__(self) -> int:
        return len(self._tickets)

    def enter(self, key: str = "") -> Ticket:
        """A place at the end.

        Args:
            key: the client's name for it, by which :meth:`find` knows it; "" for none.

        Raises:
            Refusal: the line is full, or has the key already.
        """
        if len(self._tickets) >= self.most:
            text = f"queue: {self.most} pictures wait already, and no more may; try again later"
            raise Refusal(503, text, {"Retry-After": "30"})
        if key and self.find(key):
            raise Refusal(409, "id: another request in the queue has it; take a fresh one for each request")
        ticket = Ticket(key)
        self._tickets.append(ticket)
        self._call_first()
        return ticket

    def find(self, key: str) -> Ticket | None:
        return next((ticket for ticket in self._tickets if ticket.key == key), None)

    def place(self, ticket: Ticket) -> int:
        """How many are before it; 0 for the one whose turn it is."""
        return self._tickets.index(ticket)

    async def run(self, ticket: Ticket, work: Callable[..., T], *arguments: Any) -> T:
        """Waits for the ticket's turn and runs ``work`` in the line's thread."""
        await ticket.turn.wait()
        ticket.at_work = asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        return await asyncio.shield(ticket.at_work)

    def leave(self, ticket: Ticket) -> None:
        """Gives the place up: at once, or as soon as work that has begun has noticed and ended."""
        ticket.gone = True
        if ticket.at_work is not None and not ticket.at_work.done():
            ticket.at_work.add_done_callback(lambda work: self._remove(ticket, work))
        else:
            self._remove(ticket)

    def _remove(self, ticket: Ticket, work: asyncio.Future | None = None) -> None:
        if work is not None and not work.cancelled():
            work.exception()  # it has been looked at
        if ticket in self._tickets:
            self._tickets.remove(ticket)
        self._call_first()

    def _call_first(self) -> None:
        if self._tickets:
            self._tickets[0].turn.set()

    def close(self) -> None:
        """Ends all waiting; work that has begun ends after its present piece."""
        for ticket in self._tickets:
            ticket.gone = True
        self._thread.shutdown(wait=False, cancel_futures=True)
