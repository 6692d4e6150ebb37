"""Progress off a terminal: plain lines on stderr, never silent for long, nothing when quiet."""

from __future__ import annotations

import pytest

from genepool import progress


def test_a_row_of_short_tasks_is_not_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_spoken", -1e9)
    with progress.bar("outer"), progress.bar("inner", 10, "things") as bar:
        bar.advance(4)
        monkeypatch.setattr(progress, "_spoken", -1e9)
        with progress.bar("innermost"):
            pass
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("outer")
    assert lines[-1].startswith("innermost")


def test_what_was_just_said_is_not_said_again(capsys: pytest.CaptureFixture[str]) -> None:
    progress.message("hello")
    with progress.bar("at once"):
        pass
    assert capsys.readouterr().err == "hello\n"


def test_quiet_is_quiet_and_hushed_is_only_for_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.silenced():
        progress.message("unheard")
        with progress.bar("unseen"):
            pass
    progress.message("heard")
    assert capsys.readouterr().err == "heard\n"


def test_a_line_says_what_how_far_and_how_much_longer() -> None:
    bar = progress.Bar("merging", 3e9, "bytes")
    bar.done, bar.text = 1.5e9, "layer 3"
    bar.started -= 10
    assert bar.line() == "merging · 1.5G/3.0G bytes · layer 3 · 10 s · about 10 s left"


def test_many_short_hushed_tasks_do_not_silence_the_bar_around_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    progress.set_quiet(False)
    with progress.bar("around", 4, "steps") as bar:
        for _ in range(4):
            with progress.silenced(), progress.bar("inner"):
                clock[0] += 1.0
            bar.advance()
            progress._speak_up(1.5)
    assert "around · 2/4 steps" in capsys.readouterr().err
