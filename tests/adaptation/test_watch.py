"""The watch: alarms of collapse come from predictions alone, and what is usual is what the frozen model does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genepool.adaptation import Adaptation
from genepool.adaptation.watch import WINDOW, Watch


def _says(classes: list[int], count: int = 4, sure: float = 0.9) -> torch.Tensor:
    """Predictions of these classes out of `count`."""
    rest = (1 - sure) / (count - 1)
    return torch.full((len(classes), count), rest).scatter(1, torch.tensor(classes)[:, None], sure)


def _alarms(adapted: list[list[int]], frozen: list[list[int]]) -> list[str]:
    watch = Watch(4)
    return [watch.look(_says(a), _says(f), 1.0)[1] for a, f in zip(adapted, frozen, strict=True)]


def test_one_class_alone_is_a_collapse_unless_the_frozen_model_says_so_too() -> None:
    varied, alike = [[0, 1, 2, 3]] * WINDOW, [[0, 0, 0, 0]] * WINDOW
    assert set(_alarms(varied, varied)) == {""}
    assert set(_alarms(alike, alike)) == {""}
    alarms = _alarms(alike, varied)
    assert alarms[:-1] == [""] * (WINDOW - 1)
    assert alarms[-1] == "100% of the predictions are one class, 25% of the frozen model's"


def test_a_narrow_mean_prediction_is_a_collapse() -> None:
    half = [[0, 1, 0, 1]] * WINDOW
    varied = [[0, 1, 2, 3]] * WINDOW
    watch = Watch(4)
    for ours, theirs in zip(half, varied, strict=True):
        _, alarm = watch.look(_says(ours, sure=0.9999), _says(theirs, sure=0.4), 1.0)
    assert alarm.startswith(("50% of the predictions", "the entropy of the mean prediction"))


def test_no_number_is_told_at_once() -> None:
    broken = torch.full((2, 4), float("nan"))
    signs, alarm = Watch(4).look(broken, _says([0, 1]), 0.5)
    assert (signs.broken, alarm) == (True, "a prediction is not a number")


def test_values_that_waver_at_a_limit_raise_one_alarm() -> None:
    common, varied = [0, 0, 1, 2], [0, 1, 2, 3]
    wavering = [common] * WINDOW + [varied, common] * WINDOW
    watch = Watch(4)
    alarms = [watch.look(_says(batch), _says(varied), 1.0)[1] for batch in wavering]
    # Every window holds as many as raise an alarm, or one fewer.
    assert [at for at, alarm in enumerate(alarms) if alarm] == [WINDOW - 1]


def test_a_share_just_below_the_limit_does_not_end_an_alarm() -> None:
    varied = [0, 1, 2, 3] * 5

    def batch(common: int) -> list[int]:
        return [0] * common + [1 + at % 3 for at in range(20 - common)]

    def alarms(between: int) -> int:
        watch = Watch(4)
        shares = [10] * WINDOW + [between] * 3 * WINDOW + [10] * WINDOW
        return sum(bool(watch.look(_says(batch(one)), _says(varied), 1.0)[1]) for one in shares)

    # A share of 50% raises it; 45% holds it, 35% ends it.
    assert (alarms(9), alarms(7)) == (1, 2)


def test_an_alarm_ends_after_a_window_without_one_and_after_a_reset() -> None:
    common, varied = [0, 0, 0, 0], [0, 1, 2, 3]

    def alarms(quiet: int, forget: bool = False) -> int:
        watch = Watch(4)
        batches = [common] * WINDOW + [varied] * quiet + [common] * WINDOW
        found = 0
        for at, batch in enumerate(batches):
            if forget and at == WINDOW:
                watch.forget()
            found += bool(watch.look(_says(batch), _says(varied), 1.0)[1])
        return found

    # Half of a window of varied batches ends what is wrong, and then a whole one passes without anything.
    assert alarms(2 * WINDOW) == 2
    assert alarms(WINDOW - 2) == 1
    assert alarms(0, forget=True) == 2


@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=6), min_size=1, max_size=2 * WINDOW))
def test_its_state_is_json_and_goes_on(batches: list[list[int]]) -> None:
    one, other = Watch(4), Watch(4)
    frozen = _says([0, 1, 2, 3])
    for batch in batches[:-1]:
        one.look(_says(batch), frozen, 1.0)
    other.restore(json.loads(json.dumps(one.state())))
    last = _says(batches[-1])
    assert one.look(last, frozen, 1.0) == other.look(last, frozen, 1.0)


def test_a_state_of_another_number_of_classes_is_refused() -> None:
    watch = Watch(4)
    watch.look(_says([0, 1]), _says([0, 1]), 1.0)
    with pytest.raises(ValueError, match="another number of classes"):
        Watch(5).restore(watch.state())


@pytest.mark.parametrize("what", ["stop", "reset", "continue"])
def test_what_is_done_about_a_collapse(base: Path, stream: Path, what: str) -> None:
    """A rate of 1 breaks the model within a few batches."""
    run = Adaptation(base, stream, "tent", options={"rate": 1.0}, rounds=6, on_collapse=what)
    updates = []
    for _ in run:
        update = run.update()
        assert update is not None
        updates.append(update)
    alarms = [one for one in updates if one.alarm]
    assert alarms
    resets = [one.reset for one in updates if one.reset]
    assert resets == (["by the watch"] * len(alarms) if what == "reset" else [])
    assert run.stopped == (what == "stop")
    assert (len(updates) < len(run.batches)) == (what == "stop")
    assert len(alarms) == 1 or what != "stop"
