"""A stdout that is full or closed ends every command in one line and exit code 2; an unread one changes nothing."""

from __future__ import annotations

import pytest

from tests.hardening.disturbed import Place
from tests.hardening.forked_commands import CLOSED, UNREAD
from tests.hardening.seen_results import different
from tests.hardening.writing import Writing, command_of
from tests.hardening.writing_commands import COMMANDS, READING

# One way of each command, and those beside it that print in another way.
_FIRST = {command_of(one.typed): one for one in reversed([one for one in COMMANDS if not one.long])}
_WAYS = (
    "export --type peft",
    "train --learner",
    "train --sampler",
    "train, loop",
    "compose x_lora",
    "skill convert, form",
)
PRINTING = [*_FIRST.values(), *(one for one in COMMANDS if one.name in _WAYS), *READING]
PRINTING += [one for one in COMMANDS if one.name == "testbed build, series"]


def _errors(place: Place) -> list[str]:
    return [line for line in place.said().splitlines() if line.startswith("error: ")]


@pytest.mark.slow
@pytest.mark.parametrize("writing", PRINTING, ids=str)
def test_where_output_goes_decides_no_more_than_the_end(writing: Writing, place: Place) -> None:
    place.prepare()
    before, printed = place.look(), place.folder / "printed"
    code = place.start(writing.typed, out=str(printed)).wait()
    assert code == 0, place.said()
    after, prints = place.look(), printed.stat().st_size > 0
    if writing in READING:
        assert not different(after, before)

    place.prepare()
    assert place.start(writing.typed, out=CLOSED).wait() == 2
    assert place.said().startswith("error: standard output is closed.")
    assert place.said().count("\n") == 1
    assert not different(place.look(), before)

    place.prepare()
    assert place.start(writing.typed, out=UNREAD).wait() == 0
    assert not _errors(place)
    assert "Traceback" not in place.said()
    assert "Broken" not in place.said()
    assert not different(place.look(), after)

    place.prepare()
    code = place.start(writing.typed, out="/dev/full").wait()
    if prints:
        assert code == 2
        assert _errors(place) == place.said().splitlines()[-1:]
        assert _errors(place)[0].startswith("error: standard output: No space left on device.")
    else:
        assert (code, _errors(place)) == (0, [])
    assert not place.left()
