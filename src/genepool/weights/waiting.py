"""Waiting for a server that may never answer: what takes long is told, and it has an end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from genepool import progress
from genepool.errors import InputError

#: Seconds without an answer after which it is told, and after which nobody waits any longer.
TOLD_AFTER, AT_MOST = 20.0, 300.0

_Answer = TypeVar("_Answer")


def waited(ask: Callable[[], _Answer], where: str) -> _Answer:
    """What `ask` gives, in a thread of its own: Ctrl-C is heard while it waits.

    Args:
        ask: asks a server.
        where: its address.

    Raises:
        InputError: no answer within `AT_MOST` seconds. Whatever else `ask` raises goes through.
    """
    found: list[Any] = []
    failed: list[BaseException] = []

    def asking() -> None:
        try:
            found.append(ask())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=asking, daemon=True)
    thread.start()
    silent = 0.0
    while thread.is_alive():
        thread.join(min(TOLD_AFTER, AT_MOST - silent))
        if thread.is_alive():
            silent += TOLD_AFTER
            if silent >= AT_MOST:
                raise InputError(
                    f"the server has sent nothing for {silent:.0f} seconds",
                    where=where,
                    fix="Check the address and the network, and run again: what was fetched is kept",
                )
            progress.message(f"note: {where} has sent nothing for {silent:.0f} seconds. Ctrl-C ends the waiting.")
    if failed:
        raise failed[0]
    return found[0]  # type: ignore[no-any-return]
