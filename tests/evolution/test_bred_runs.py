"""Whole studies that breed models: the same whether stopped, cleared of children, or worked on by several."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import evolve_world
import numpy as np
import pytest
import yaml

from genepool.errors import InputError
from genepool.evolution import load_study, run_study
from genepool.evolution.collection import read_collection, write_candidate
from genepool.evolution.opened_study import OpenedStudy
from genepool.evolution.store import StudyStore
from genepool.report import collect_study, render_report, report_markdown
from genepool.report.sections.collection import Collection
from genepool.tasks import Ledger, evaluate, load_tasks
from genepool.weights import open_weights

BREEDERS = ["cycleqd", "genome", "genome_plus", "m2n2", "weight_es"]
# Where a generation is larger than the budget otherwise.
OPTIONS = {"weight_es": {"population": 4}}


def bred_study(world: Path, name: str, strategy: Any, **changes: Any) -> Path:
    data = {k: v for k, v in evolve_world.STUDY.items() if k not in ("method", "parameters", "search")}
    path = world / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**data, "strategy": strategy, "budget": {"evaluations": 14}, **changes}))
    return path


def history(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "cached")} for line in lines]


def best(out: Path) -> dict[str, Any]:
    data = json.loads((out / "best.json").read_text())
    return {key: value for key, value in data.items() if key not in ("cost", "ledger")}


@pytest.mark.parametrize(
    "name", [BREEDERS[0], *(pytest.param(other, marks=pytest.mark.slow) for other in BREEDERS[1:])]
)
def test_stopped_and_robbed_of_its_children_a_study_ends_as_if_undisturbed(
    world: Path, tmp_path: Path, name: str
) -> None:
    study = bred_study(world, name, {"name": name, "options": OPTIONS.get(name, {})})
    once = run_study(study, tmp_path / "once", ledger=tmp_path / "once.sqlite")
    for budget in (11, 12):
        run_study(study, tmp_path / "steps", evaluations=budget, ledger=tmp_path / "steps.sqlite")
        shutil.rmtree(tmp_path / "steps" / "population", ignore_errors=True)
    run_study(study, tmp_path / "steps", ledger=tmp_path / "steps.sqlite")
    assert history(tmp_path / "steps") == history(tmp_path / "once")
    assert best(tmp_path / "steps") == best(tmp_path / "once")
    # The winner's pedigree ends at the skills, and every child in it was born before its own children.
    births = once.best["pedigree"]
    for child, birth in births.items():
        assert all(parent in ("a", "b") or parent in births for parent in birth["parents"]), child
    assert open_weights(once.winner).fingerprint() == once.best["fingerprint"]
    assert "models made of a and b by breeding" in render_report(collect_study(tmp_path / "once"))


@pytest.mark.slow
def test_two_workers_breed_what_one_does(world: Path, tmp_path: Path) -> None:
    study = bred_study(world, "two", {"name": "genome", "options": {"population": 4}}, budget={"evaluations": 10})
    for count in (1, 2):
        run_study(study, tmp_path / str(count), workers=count, ledger=tmp_path / f"{count}.sqlite")
    assert history(tmp_path / "1") == history(tmp_path / "2")
    assert best(tmp_path / "1") == best(tmp_path / "2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "linear"}, "leave `method` out"),
        ({"skills": ["skills/a"]}, "genome needs 2 skills or more, got 1"),
        ({"skills": [{"name": "0.1", "model": "skills/a"}, "skills/b"]}, "the skill name '0.1'"),
        ({"breed": {"form": "adapters"}}, "form: models"),
        (
            {"strategy": "m2n2", "race": "halving"},
            "a race compares fitness alone, and m2n2 needs the score of every example",
        ),
        ({"probe": 500}, "must be below 20, the examples of each task that score a candidate, got 500"),
        ({"race": {"first": 20}}, "must be below 20, the examples"),
    ],
)
def test_what_cannot_be_bred_is_refused_before_anything_is_written(
    world: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    study = bred_study(world, "wrong", **{"strategy": "genome", **changes})
    with pytest.raises(InputError, match=message):
        run_study(study, tmp_path / "out", ledger=tmp_path / "ledger.sqlite")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_race_asks_fewer_examples_and_crowns_someone_who_ran_to_the_end(world: Path, tmp_path: Path) -> None:
    asked = {}
    for race in (None, "halving", "test"):
        study = world / "race.yaml"
        data = {**evolve_world.STUDY, "budget": {"evaluations": 14}, "finalists": 0, "tasks": {"dir": "tasks"}}
        study.write_text(yaml.safe_dump(data if race is None else {**data, "race": {"kind": race, "first": 4}}))
        out = tmp_path / str(race)
        result = run_study(study, out, ledger=tmp_path / f"{race}.sqlite")
        asked[race] = result.best["cost"]["examples"]
        lines = history(out)
        assert len(lines) == 14
        winner = next(line for line in lines if line["id"] == result.best["id"])
        assert "note" not in winner
        for line in lines:
            if "note" in line:
                assert line["note"].startswith("left the race after ")
    assert asked["halving"] < 0.6 * asked[None]
    assert asked["test"] <= asked[None]


@pytest.mark.slow
def test_twins_share_one_evaluation(world: Path, tmp_path: Path) -> None:
    data = {
        **evolve_world.STUDY,
        "budget": {"evaluations": 24},
        "probe": 6,
        "tasks": {"dir": "tasks", "names": ["pick"]},
    }
    study = world / "twins.yaml"
    study.write_text(yaml.safe_dump(data))
    run_study(study, tmp_path / "out", ledger=tmp_path / "ledger.sqlite")
    lines = {f"{line['generation']}.{line['index']}": line for line in history(tmp_path / "out")}
    twins = [line for line in lines.values() if "note" in line]
    assert twins, "six multiple-choice examples cannot tell 24 candidates apart"
    for line in twins:
        other = lines[line["note"].removeprefix("answers the probe as ").removesuffix(" does")]
        assert (other["fitness"], other["valid"]) == (line["fitness"], line["valid"])


@pytest.mark.slow
def test_a_search_ends_when_it_was_told_to(world: Path, tmp_path: Path) -> None:
    study = world / "stop.yaml"
    study.write_text(yaml.safe_dump({**evolve_world.STUDY, "budget": {"evaluations": 400}, "stop": {"stall": 2}}))
    first = run_study(study, tmp_path / "out", ledger=tmp_path / "ledger.sqlite")
    assert first.best["evaluations"] < 200
    again = run_study(study, tmp_path / "out", ledger=tmp_path / "ledger.sqlite")
    assert again.resumed
    study.write_text(yaml.safe_dump({**evolve_world.STUDY, "budget": {"evaluations": 400}, "stop": {"stall": 4}}))
    more = run_study(study, tmp_path / "out", ledger=tmp_path / "ledger.sqlite")
    assert more.best["evaluations"] > first.best["evaluations"]


@pytest.mark.slow
def test_the_winners_curse_is_told(world: Path, tmp_path: Path) -> None:
    study = world / "curse.yaml"
    study.write_text(yaml.safe_dump({**evolve_world.STUDY, "strategy": "random_search"}))
    result = run_study(study, tmp_path / "out", ledger=tmp_path / "ledger.sqlite")
    curse, lines = result.best["curse"], history(tmp_path / "out")
    winner = next(line for line in lines if line["id"] == result.best["id"])
    assert curse["searched"] == winner["fitness"]
    mean = sum(line["fitness"] for line in lines) / len(lines)
    assert mean <= curse["shrunk"] < curse["searched"]
    # All 24 validation examples of a task are the 20 of the search and 4 that it did not see.
    assert curse["valid"] == pytest.approx((20 * curse["searched"] + 4 * curse["fresh"]) / 24)
    assert curse["test"] == pytest.approx(sum(result.best["test"].values()) / 2)


@pytest.mark.parametrize(
    ("strategy", "groups"),
    [
        pytest.param("genome", {"population"}, marks=pytest.mark.slow),
        pytest.param("m2n2", {"archive"}, marks=pytest.mark.slow),
        ("cycleqd", {"pick", "say"}),
        pytest.param({"name": "nsga2", "options": {"population": 6}}, {"knee"}, marks=pytest.mark.slow),
        ({"name": "map_elites", "options": {"batch": 6}}, {"cell"}),
    ],
)
def test_what_was_gathered_is_listed_and_any_of_it_becomes_a_checkpoint(
    world: Path, tmp_path: Path, strategy: Any, groups: set[str]
) -> None:
    name = strategy if isinstance(strategy, str) else strategy["name"]
    if name in BREEDERS:
        study = bred_study(world, f"gather-{name}", strategy)
    else:
        study = world / f"gather-{name}.yaml"
        study.write_text(yaml.safe_dump({**evolve_world.STUDY, "strategy": strategy, "budget": {"evaluations": 14}}))
    run_study(study, tmp_path / "out", ledger=tmp_path / "ledger.sqlite")
    members = read_collection(tmp_path / "out")
    data = collect_study(tmp_path / "out", ledger=tmp_path / "ledger.sqlite")
    (shown,) = data[Collection].searches
    assert [(m.name, m.group) for m in shown.members] == [(m.name, m.group) for m in members]
    for member, one in zip(members, shown.members, strict=True):
        told = dict(zip(shown.scores, one.scores, strict=True))
        assert {key: told[key] for key in member.scores} == pytest.approx(member.scores)
        assert {"pick", "say"} <= {key for key, value in told.items() if value is not None}, "every task's mean"
        assert (one.atlas is not None) == bool(member.quality)
    assert {shown.scores[one.quality] for one in shown.maps} == {m.quality for m in members} - {""}
    assert 'id="collection"' in render_report(data)
    assert f"What {shown.search} kept:" in report_markdown(data)
    assert {member.group.split()[0] for member in members} >= groups
    last = members[-1]
    verdict, _ = write_candidate(tmp_path / "out", last.name, tmp_path / "model")
    with Ledger(tmp_path / "fresh.sqlite") as ledger:
        table = evaluate(
            [tmp_path / "model"], load_tasks(str(world / "tasks")), split="valid", limit=20, seed=1, ledger=ledger,
            threads=1, batch_size=8,
        )  # fmt: skip
    assert {task: table.mean(table.models[0], task) for task in table.tasks} == pytest.approx(dict(verdict.valid))
    with pytest.raises(InputError, match="has no candidate '99.0'"):
        write_candidate(tmp_path / "out", "99.0", tmp_path / "other")
    with pytest.raises(InputError, match="not empty"):
        write_candidate(tmp_path / "out", last.name, tmp_path / "model")


def test_objectives_that_are_no_tasks_are_refused_at_once(world: Path, tmp_path: Path) -> None:
    study = world / "objectives.yaml"
    strategy = {"name": "nsga2", "options": {"objectives": ["pikc"]}}
    study.write_text(yaml.safe_dump({**evolve_world.STUDY, "strategy": strategy}))
    with pytest.raises(InputError, match="no task 'pikc'.*pick"):
        run_study(study, tmp_path / "out", ledger=tmp_path / "ledger.sqlite")


@pytest.mark.slow
def test_going_on_makes_no_child_again(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genepool.evolution.breeding import Offspring

    study = bred_study(world, "again", {"name": "m2n2", "options": {"population": 4}}, finalists=1)
    run_study(study, tmp_path / "out", ledger=tmp_path / "ledger.sqlite")
    made: list[str] = []
    whole = Offspring._make

    def counted(offspring: Offspring, birth: Any) -> Any:
        made.append(birth.op)
        return whole(offspring, birth)

    monkeypatch.setattr(Offspring, "_make", counted)
    run_study(study, tmp_path / "out", evaluations=18, ledger=tmp_path / "ledger.sqlite")
    # Four children more; a founder that has to be there as a parent is copied once.
    assert made.count("splice") <= 5


def test_m2n2_is_told_how_the_study_weights_its_tasks(world: Path, tmp_path: Path) -> None:
    tasks = {**evolve_world.STUDY["tasks"], "weights": {"say": 0.0}}
    study = bred_study(world, "weighted", "m2n2", tasks=tasks, budget={"evaluations": 5})
    importance = OpenedStudy.open(load_study(study), "study").importance
    assert importance is not None
    assert importance.tolist() == [2.0] * 20 + [0.0] * 20
    run_study(study, tmp_path / "out", ledger=tmp_path / "ledger.sqlite")
    members = read_collection(tmp_path / "out")
    with StudyStore(tmp_path / "out" / "study.sqlite") as store:
        rows = {candidate.name: verdict.example_scores()[:20] for candidate, verdict in store.finished()}
    picked = np.array([rows[member.name] for member in members])
    assert picked.any()
    shares = 2 * picked / np.maximum(picked.sum(0), 1)
    assert [member.scores["worth"] for member in members] == pytest.approx(shares.sum(1))


@pytest.mark.parametrize(
    ("strategy", "learn", "held"),
    [
        ("weight_es", None, "F32"),
        ("genome", {"steps": 1}, "F32"),
        ("genome", {"steps": 1, "inherit": False}, "BF16"),
        ("genome", None, "BF16"),
    ],
)
def test_what_takes_small_steps_is_held_in_float32(world: Path, strategy: str, learn: Any, held: str) -> None:
    study = bred_study(world, "held", strategy, dtype="bfloat16", learn=learn)
    opened = OpenedStudy.open(load_study(study), "study")
    numbers = opened.representation.child_numbers  # type: ignore[attr-defined]
    assert opened.representation.child_bytes == numbers * {"F32": 4, "BF16": 2}[held]  # type: ignore[attr-defined]
