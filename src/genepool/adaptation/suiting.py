"""Whether an adapter, what is asked of it and a stream suit each other; and whether a state is an adapter's.

Checked before a model is loaded and before anything is written.
"""

from __future__ import annotations

from genepool.adaptation.adapter import AdapterState, StreamAdapter
from genepool.adaptation.sliding_window import check_window
from genepool.adaptation.stream import Order, Stream
from genepool.checked import is_whole
from genepool.errors import InputError

# As many as a stream may say itself; and as many examples over all rounds as are planned in some hundred megabytes.
_MOST_ROUNDS, _MOST_PLANNED = 100_000, 50_000_000


def check_asked(
    adapter: StreamAdapter, stream: Stream, order: Order, rounds: int, labels_late: int | None, window: int | None
) -> None:
    """Refuses what an adapter cannot do with a stream, before a model is loaded; arguments as for `Adaptation`.

    Raises:
        InputError: the argument or the file that is wrong is named.
    """
    name, needs = adapter.name, adapter.needs
    for what, value, least in (("--rounds", rounds, 1), ("--labels-late", labels_late, 0)):
        if value is not None and not is_whole(value, least, _MOST_ROUNDS):
            raise InputError(f"must be a whole number from {least} to {_MOST_ROUNDS:,}, got {value!r:.40}", where=what)
    if (asked := rounds * len(stream.examples)) > _MOST_PLANNED:
        raise InputError(
            f"{rounds:,} times {len(stream.examples):,} examples are {asked:,} predictions, expected at "
            f"most {_MOST_PLANNED:,}",
            where="--rounds",
            fix="Give fewer",
        )
    if adapter.asks == {"series"} and not stream.horizon:
        raise InputError(
            f"is no series, and {name} adapts forecasters of series",
            where=stream.where,
            fix="Name a series, or choose another --adapter",
        )
    alone = window is None
    if window is not None:
        check_window(window, stream, adapter)
    if "several examples" in needs and alone and (stream.batch == 1 or len(stream.examples) == 1):
        raise InputError(
            f"has batches of one example, and {name} compares the examples of a batch",
            where=stream.where,
            fix="Add --window W, set `batch` in stream.json to 2 or more, or choose another --adapter",
        )
    if stream.horizon:
        _check_series(order, rounds, labels_late)
    elif "late labels" in needs and labels_late is None:
        raise InputError(f"{name} learns from late labels", where="--adapter", fix="Add --labels-late N")
    if labels_late is not None and all(one.answer is None for one in stream.examples):
        raise InputError("has no labels that could come late", where=stream.where, fix="Leave --labels-late out")


def _check_series(order: Order, rounds: int, labels_late: int | None) -> None:
    """Refuses what would show a series out of time, or what was learned from."""
    for what, wrong, why in (
        ("--order", order != "file", f"a series comes in the order of time, got {order}"),
        ("--rounds", rounds != 1, "a series is gone through once: later rounds were learned from"),
        ("--labels-late", labels_late is not None, "the truth of a series comes as time passes"),
    ):
        if wrong:
            raise InputError(why, where=what, fix="Leave it out")


def check_late(labels_late: int | None, batches: int) -> None:
    """Refuses labels that would come after the last of the batches."""
    if labels_late is not None and labels_late >= batches:
        raise InputError(
            f"got {labels_late:,}, and the run has {batches:,} batches: no label would ever come",
            where="--labels-late",
            fix="Give fewer, or leave it out",
        )


def check_held(given: AdapterState, held: AdapterState) -> None:
    """Refuses a state that holds more or less than the adapter that took it, or numbers of another type.

    Raises:
        ValueError: what is too much, is missing or is of another type.
    """
    for one, other, what in ((given, held, "is nothing that the adapter holds"), (held, given, "is missing")):
        more = [*(one.tensors.keys() - other.tensors.keys()), *(one.values.keys() - other.values.keys())]
        if more:
            raise ValueError(f"{min(more)} {what}")
    for name, tensor in given.tensors.items():
        if tensor.dtype != held.tensors[name].dtype:
            raise ValueError(f"{name} is {tensor.dtype}, expected {held.tensors[name].dtype}")
