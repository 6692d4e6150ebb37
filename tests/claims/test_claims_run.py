"""The claims are put to real testbeds: fair arms, nothing asked twice, a page that says what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.claims import arms, page, worlds
from benchmarks.claims.claim import Claim, Measurement
from benchmarks.claims.measuring import lacking, measure
from benchmarks.claims.rows import CLAIMS
from benchmarks.claims.stamp import stamp
from benchmarks.claims.verdict import FAILS, HOLDS, Contrast, better
from benchmarks.claims.worlds import KINDS, BedKind, World
from genepool.merging import all_methods

pytest.importorskip("sklearn")
SKILLS = ("mirror", "invert")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims about the digits are put to two tiny specialists that learned next to nothing."""
    from genepool.testbed.digits import builder
    from genepool.testbed.digits.builder import DigitsSchedule
    from genepool.testbed.schedule import Phase

    schedule = DigitsSchedule(8, 2, 2, 12, base=Phase(30, 32, 5e-3), full=Phase(10, 32, 5e-3))
    monkeypatch.setattr(builder, "schedule_for", lambda *, tiny, tasks: schedule)
    monkeypatch.setattr(worlds, "CACHE", tmp_path)
    monkeypatch.setitem(KINDS, "digits", BedKind("digits", "small", {"bed": "digits", "skills": SKILLS}))


def test_every_claim_can_be_told_apart_and_has_testbeds() -> None:
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.beds
        assert set(claim.beds) <= set(KINDS)


def test_no_arm_tries_more_settings_than_are_fair() -> None:
    with pytest.raises(ValueError, match="9 settings"):
        arms.Arm("greedy", "ties", ({},) * 9, lambda world, skills, settings: world.base())


@pytest.mark.slow
def test_settings_are_chosen_on_validation_and_figures_are_of_the_test_split(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World("digits", 0)
    asked: list[str] = []
    real = world.scores

    def listening(recipe: Any, tasks: Any, split: str) -> Any:
        asked.append(split)
        return real(recipe, tasks, split)

    monkeypatch.setattr(world, "scores", listening)
    _, settings, recipe = arms.best(world, arms.TASK_ARITHMETIC, world.skills)
    assert set(asked) == {"valid"}
    assert len(asked) == len(arms.TASK_ARITHMETIC.grid)
    values = [
        arms.mean_score(real(each, world.skills, "valid"), world.skills)
        for _, each in arms.candidates(world, arms.TASK_ARITHMETIC, world.skills)
    ]
    assert settings == arms.TASK_ARITHMETIC.grid[int(np.argmax(values))]
    assert recipe.parameters["lambda"] == settings["lambda"]


@pytest.mark.slow
def test_what_was_asked_once_is_not_asked_again(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measure(["ties-untuned"], "digits", 0)
    monkeypatch.setattr(worlds, "evaluate", lambda *_, **__: pytest.fail("it is known"))
    assert measure(["ties-untuned"], "digits", 0) == first


@pytest.mark.slow
def test_a_line_cut_off_by_a_kill_is_asked_again(small: None, tmp_path: Path) -> None:
    first = measure(["ties-untuned"], "digits", 0)
    path = tmp_path / "scores" / "digits-0.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-40])
    assert measure(["ties-untuned"], "digits", 0) == first
    assert json.loads(path.read_text().splitlines()[-1])["key"] == json.loads(whole.splitlines()[-1])["key"]


@pytest.mark.slow
def test_a_contrast_is_of_the_models_as_they_are(small: None) -> None:
    """The averaging arm against the tested scores of an average made by hand."""
    import torch

    from genepool.tasks import Ledger, evaluate, load_tasks
    from genepool.weights import TensorWeights, open_weights

    world = World("digits", 0)
    experts = [open_weights(path) for path in world.bed.full.values()]
    mean = {name: torch.stack([e.read(name) for e in experts]).mean(0) for name in experts[0].names()}
    tasks = load_tasks(world.bed.tasks, list(SKILLS))
    with Ledger(":memory:") as ledger:
        table = evaluate([TensorWeights(mean, config=experts[0].config)], tasks, ledger=ledger)
    recipe = world.recipe("linear", SKILLS, {})
    found = world.scores(recipe, SKILLS, "test")
    for skill in SKILLS:
        assert found[skill].tolist() == table.scores(table.models[0], skill).tolist()


def test_the_stamp_is_of_all_code_a_method_uses() -> None:
    one, two = stamp("genepool.merging.methods.ties"), stamp("genepool.merging.methods.slerp")
    assert one == stamp("genepool.merging.methods.ties") != two
    everything = stamp("genepool.merging.methods.ties", "genepool.merging.methods.slerp")
    assert everything not in (one, two)


def test_claims_whose_methods_exist_lack_nothing() -> None:
    for claim in CLAIMS:
        if set(claim.needs) <= set(all_methods()):
            assert lacking(claim) == []
    unknown = Claim("x", "x", "x", ("digits",), ("no_such",), lambda world: Measurement({}), better("x"))
    assert lacking(unknown) == ["no_such"]


def _row(first: int, second: int) -> page.Row:
    claim = Claim(
        "sums", "one is more", "a paper", ("digits",), (), lambda world: Measurement({}), better("one minus two")
    )
    contrast = Contrast(first / 100, second / 100, ((0, 100 - first + second, first - second),) if first >= second
                        else ((second - first, 100 - second + first, 0),))  # fmt: skip
    return page.Row(claim, "digits", [Measurement({"main": contrast}, {"one": {"lambda": 1.0}})] * 3)


def test_the_page_tells_claim_source_figure_and_verdict(tmp_path: Path) -> None:
    page.write([_row(60, 40), _row(40, 60)], 3, {"pcb": ["pcb"]}, tmp_path)
    text = (tmp_path / "claims.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| one is more")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[4] for row in cells] == [HOLDS, FAILS]
    assert cells[0][1:3] == ["a paper", "digits"]
    assert cells[0][3].startswith("+0.200 [+0.1")
    assert cells[0][3].endswith("(0.40 to 0.60)")
    assert cells[1][5] == "the reverse is seen"
    assert "Of 2 rows: 1 holds, 1 does not hold here, 0 cannot be asked at this size." in text
    assert "Not asked yet: pcb. Missing: pcb." in text
    # The rules stand before the figures.
    assert text.index("the interval of one minus two is above 0") < text.index("| one is more")
    raw = json.loads((tmp_path / "claims.json").read_text())
    assert raw["schema"] == 1
    assert raw["rows"][0]["seeds"][0]["contrasts"]["main"]["changes"] == [[0, 80, 20]]


def test_what_was_written_can_be_kept_when_other_rows_are_renewed(tmp_path: Path) -> None:
    row = _row(60, 40)
    page.write([row], 3, {}, tmp_path)
    found = page.recorded(tmp_path)
    assert found == {("sums", "digits", seed): row.measured[seed] for seed in range(3)}
    again = page.by_rows([row.claim], found, 3)
    assert [one.figures for one in again] == [row.figures]


def test_a_claim_that_is_missing_a_seed_has_no_row() -> None:
    (claim, *_) = CLAIMS
    measured = {(claim.name, "digits", 0): _row(60, 40).measured[0]}
    assert page.by_rows([claim], measured, 1)
    assert page.by_rows([claim], measured, 2) == []


@pytest.mark.slow
def test_every_claim_that_can_be_put_is_measured(small: None) -> None:
    ready = [claim for claim in CLAIMS if "digits" in claim.beds and not lacking(claim)]
    measured = measure([claim.name for claim in ready], "digits", 0)
    assert set(measured) == {claim.name for claim in ready}
    for claim in ready:
        row = page.Row(claim, "digits", [measured[claim.name]])
        assert row.verdict
        assert row.claim.rule.words


def test_the_command_says_what_it_can_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.claims import __main__ as command

    monkeypatch.setattr("sys.argv", ["claims", "--seeds", "99"])
    with pytest.raises(SystemExit):
        command.main()
    assert "from 1 to 10" in capsys.readouterr().err
