"""Loops, as they are typed: what every stage leaves, that a killed one goes on to the same bits, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from genepool.training import run as running
from genepool.training.loops import run as looping
from genepool.training.loops.folder import StageMark

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL: dict[str, Any] = {"steps": 6, "batch": 8, "learning_rate": 0.02}
LOOP: dict[str, Any] = {
    "loop": 1,
    "rounds": 2,
    "lora": {"rank": 2},
    "test": 8,
    "training": {"every": 3, "batch": 8},
    "round": [
        {"draw": {"count": 12}},
        {"sample": {"samples": 4}},
        {"select": {"at_least": 1.0}},
        {"train": SMALL},
        {"pair": None},
        {"train": {"of": "pairs", "objective": "dpo", "steps": 3, "learning_rate": 0.005}},
        {"measure": {"count": 6}},
    ],
}


@pytest.fixture
def loop(cli: Callable[..., Any], half_known: str, small_world: Path, tmp_path: Path) -> Callable[..., Any]:
    """`loop("run", *options, rounds=1, ...)`: runs LOOP with these changes."""

    def call(out: str, *options: Any, **changes: Any) -> Any:
        file = tmp_path / "loop.yaml"
        plain = {**LOOP, "base": half_known, "tasks": [str(small_world / "tasks" / "first")], **changes}
        file.write_text(yaml.safe_dump({key: value for key, value in plain.items() if value is not ...}))
        return cli("train", file, "--out", tmp_path / out, "--quiet", *options)

    return call


def said(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "loop.json").read_text()))


def files(folder: Path) -> dict[str, bytes]:
    """What must be the same bits; records that hold times or absolute paths are left out."""
    kept = [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".jsonl", ".json") and path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept if "adapter_config" not in path.name}


def test_a_training_on_the_tasks_uses_the_known_answers_of_its_steps(
    loop: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path
) -> None:
    answer = loop("run", "--json", rounds=1, round=[{"train": {"of": None, "steps": 2, "batch": 3}}])
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["labels"] == 6
    inner = tmp_path / "run" / "stages" / "0001-01-train" / "run"
    answer = cli("verify-run", tmp_path / "run", "--step", 1, "--quiet")
    assert answer.err == f"error: {tmp_path / 'run'}: holds a loop. Name one of its trainings, such as {inner}.\n"


@pytest.mark.slow
def test_every_round_leaves_its_samples_its_trainings_and_what_they_cost(
    loop: Callable[..., Any], cli: Callable[..., Any], half_known: str, small_world: Path, tmp_path: Path
) -> None:
    answer = loop("run", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["schema"] == 1
    assert [row["task"] for row in told["target"]] == ["first"]
    assert [row["task"] for row in told["others"]] == ["grade"]
    assert [one["stage"] for one in told["stages"] if one["round"] == 1] == [
        "draw", "sample", "select", "train", "pair", "train", "measure",
    ]  # fmt: skip
    samples = [
        json.loads(line)
        for path in sorted((tmp_path / "run" / "stages").glob("*-sample/samples.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert len(samples) == 2 * 12
    assert told["tokens_generated"] == sum(one[1] for line in samples for one in line["samples"])
    assert told["labels"] == len({line["prompt"] for line in samples})
    assert told["steps"] == 2 * (6 + 3)
    lessons = (tmp_path / "run" / "stages" / "0001-03-select" / "lessons.jsonl").read_text().splitlines()
    assert all(line["prompt"][1] == line["answers"][0] for line in map(json.loads, lessons))
    # The second training of a round began with what the first one had learned.
    recipe = (tmp_path / "run" / "stages" / "0001-06-train" / "run" / "training.yaml").read_text()
    assert "0001-04-train/run/adapter" in recipe
    assert cli("verify-run", tmp_path / "run" / "stages" / "0002-04-train" / "run", "--step", 5, "--quiet").code == 0
    result = cli(
        "evaluate", f"{half_known}+{tmp_path / 'run' / 'skill.safetensors'}", "--tasks",
        small_world / "tasks" / "first", "--limit", 8, "--json", "--quiet",
    )  # fmt: skip
    assert json.loads(result.out)["results"][0]["mean"] == told["target"][0]["after"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(f'id="{name}"' in page for name in ("rounds", "stages"))
    assert cli("report", tmp_path / "run", "--out", tmp_path / "page.md", "--quiet").code == 0
    text = (tmp_path / "page.md").read_text()
    assert "| round | first | grade | steps | tokens | known answers |" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| 2 | ") and line.count("|") == 7)
    tokens = sum(one["tokens"] for one in told["stages"] if one["round"] == 2)
    assert row.split(" | ")[3:5] == ["9", f"{tokens:,}"]
    before = files(tmp_path / "run")
    assert loop("run").code == 0
    assert files(tmp_path / "run") == before


# What makes a recipe short; the mechanisms stay.
SHORT: dict[str, dict[str, Any]] = {
    "draw": {"count": 16},
    "train": {"steps": 4, "batch": 8},
    "sample": {"samples": 4, "tokens": None},
    "measure": {"count": 8},
    "search": {"tokens": 400},
    "process": {"steps": 4},
}


def shortened(name: str, folder: Path) -> Path:
    """A recipe with few prompts, steps and rounds, in a file of its own."""
    told = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    # What comes before the first round stays as it is: it is what makes the rounds work.
    for part in ("round", "last"):
        for stage in told.get(part, []):
            ((kind, options),) = stage.items()
            options = dict(options or {})
            known = SHORT.get(kind, {})
            stage[kind] = {**options, **{key: value for key, value in known.items() if key in options or value}}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**told, "rounds": 1, "test": 16, "others": str(folder / "tasks" / "generic")}))
    return file


def lines(run: Path, pattern: str) -> list[dict[str, Any]]:
    (file,) = (run / "stages").glob(pattern)
    return [json.loads(line) for line in file.read_text().splitlines()]


def of_failures(did: dict[str, Any], run: Path, told: dict[str, Any]) -> None:
    """The easy half stands before the hard one, and only wrong samples are rejected."""
    easy, hard = lines(run, "0000-02-*/easy.jsonl"), lines(run, "0000-03-*/hard.jsonl")
    assert not {line["prompt"] for line in easy} & {line["prompt"] for line in hard}
    samples = {line["prompt"]: line["samples"] for line in lines(run, "0001-02-sample/samples.jsonl")}
    for pair in lines(run, "0001-*-pair/pairs.jsonl"):
        right = pair["prompt"][2:-1][::-1]
        assert pair["answers"] == [right]
        assert pair["rejected"][0] in [text for text, _, reward in samples[pair["prompt"]] if reward == 0]


def of_refinement(did: dict[str, Any], run: Path, told: dict[str, Any]) -> None:
    """A refined answer is preferred only where it is better, and is learned under what asked for it."""
    refined = {line["prompt"]: line["samples"] for line in lines(run, "0001-03-refine/refined.jsonl")}
    for lesson in lines(run, "0001-03-refine/refinements.jsonl"):
        prompt, _, first = lesson["prompt"].removesuffix(";").partition("=")
        (one, _, _), (two, _, reward) = refined[f"{prompt}="]
        assert (first, lesson["answers"], reward) == (one, [two], 1.0)
    for pair in lines(run, "0001-05-pair/pairs.jsonl"):
        (one, _, before), (two, _, after) = refined[pair["prompt"]]
        assert (pair["rejected"], pair["answers"]) == ([one], [two])
        assert after > before
    assert {"first", "second", "improved", "worsened"} <= set(did["refine"])


def of_self_play(did: dict[str, Any], run: Path, told: dict[str, Any]) -> None:
    """New prompts come from those whose samples differed, and are no labels; half stay the tasks'."""
    samples = lines(run, "0001-01-sample/samples.jsonl")
    prompts = lines(run, "0001-04-evolve/prompts.jsonl")
    new = [line for line in prompts if line.get("own")]
    half = len(samples) // 2
    assert 0 < len(new) <= half
    assert did["evolve"]["buffer"] == len(prompts) - len(new) == half
    telling = [line for line in samples if len({reward for _, _, reward in line["samples"]}) > 1]
    assert telling
    assert all(line["prompt"].startswith("R:") for line in new)


def of_curation(did: dict[str, Any], run: Path, told: dict[str, Any]) -> None:
    """Half of the lessons are known answers."""
    lessons = lines(run, "0001-*-select/lessons.jsonl")
    own = [line for line in lessons if line.get("own")]
    assert len(own) == len(lessons) - len(own) == did["select"]["real"] == 16


def of_search(did: dict[str, Any], run: Path, told: dict[str, Any]) -> None:
    """A step is worth the mean over the answers that went through it; trees stay within their size."""
    steps = lines(run, "0001-02-search/steps.jsonl")
    assert did["search"]["nodes"] == len(steps)
    assert all(0 <= reward <= 1 for line in steps for _, _, reward in line["samples"])
    assert {line["prompt"].count(";") for line in steps} >= {0, 1}
    per_tree = [sum(line["prompt"].startswith(root["prompt"]) for line in steps)
                for root in lines(run, "0001-02-search/samples.jsonl")]  # fmt: skip
    assert max(per_tree) <= 20
    assert told["stages"][2]["tokens"] >= 400


def of_steps(did: dict[str, Any], run: Path, told: dict[str, Any]) -> None:
    """A model of the last trees' steps judges samples of prompts that nothing was learned from."""
    judged, drawn = lines(run, "0002-03-process/judged.jsonl"), lines(run, "0002-02-sample/samples.jsonl")
    assert [line["prompt"] for line in judged] == [line["prompt"] for line in drawn]
    assert all(0 <= reward <= 1 for line in judged for _, _, reward in line["samples"] if reward is not None)
    assert {"chosen", "first", "vote", "best"} <= set(did["process"])
    assert did["process"]["best"] >= max(did["process"][name] for name in ("chosen", "first", "vote"))


def of_best_of_n(did: dict[str, Any], run: Path, told: dict[str, Any]) -> None:
    """What is learned from was judged right."""
    for line in lines(run, "0001-*-select/lessons.jsonl"):
        assert [reward for _, _, reward in line["samples"]] == [1.0]


CHECKS: dict[str, Callable[[dict[str, Any], Path, dict[str, Any]], None]] = {
    "iterative": of_failures,
    "self-refinement": of_refinement,
    "self-play": of_self_play,
    "self-curated": of_curation,
    "search": of_search,
    "process-reward": of_steps,
    "best-of-n": of_best_of_n,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CHECKS))
def test_every_recipe_runs_on_the_testbed(
    cli: Callable[..., Any], tiny_testbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("base", "tasks"):
        (tmp_path / place).symlink_to(tiny_testbed.folder / place)
    (tmp_path / "countdown").symlink_to(RECIPES / "countdown")
    answer = cli("train", shortened(name, tmp_path), "--out", "run", "--quiet", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert [row["task"] for row in told["others"]] == ["generic"]
    did = {one["stage"]: one["told"] for one in told["stages"]}
    assert told["tokens_generated"] > 0
    CHECKS[name](did, tmp_path / "run", told)


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["sample", "in a training", "a training", "the end"])
def test_a_loop_that_was_stopped_goes_on_to_the_same_bits(
    loop: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    short = {"rounds": 1, "round": LOOP["round"][:4]}
    assert loop("whole", **short).code == 0
    with monkeypatch.context() as patch:

        def dying(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        if stop == "in a training":
            after = running.Run._after

            def stopping(self: Any, step: Any, *rest: Any) -> bool:
                ended = after(self, step, *rest)
                if step.number == 4:
                    raise KeyboardInterrupt
                return ended

            patch.setattr(running.Run, "_after", stopping)
        elif stop == "the end":
            patch.setattr(looping.LoopRun, "measure", dying)
        else:
            write = StageMark.write
            name = "sample" if stop == "sample" else "train"
            # Everything of the stage is on the disk, and nothing says yet that it is finished.
            patch.setattr(StageMark, "write", lambda mark: dying() if mark.name == name else write(mark))
        assert loop("stopped", **short).code == 130
    assert not (tmp_path / "stopped" / "loop.json").exists()
    assert loop("stopped", **short).code == 0
    whole, stopped = files(tmp_path / "whole"), files(tmp_path / "stopped")
    assert {name for name in whole if whole[name] != stopped.get(name)} == set()
    assert whole.keys() == stopped.keys()


@pytest.mark.slow
def test_a_changed_loop_is_refused_with_what_differs_and_a_fork_begins_with_what_was_learned(
    loop: Callable[..., Any], tmp_path: Path
) -> None:
    short = {"rounds": 1, "round": LOOP["round"][:4]}
    assert loop("run", **short).code == 0
    other = [*LOOP["round"][:2], {"select": {"at_least": 0.5}}, {"train": {**SMALL, "steps": 3}}]
    answer = loop("run", **{**short, "round": other})
    assert answer.code == 2
    assert "round[2].select.at_least was 1.0 and is 0.5" in answer.err
    assert "--fork" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    learned = (tmp_path / "run" / "stages" / "0001-04-train" / "run" / "adapter").resolve()
    assert loop("further", "--fork", tmp_path / "run", **{**short, "round": other}).code == 0
    start = tmp_path / "further" / "start" / "0001"
    assert (start / "adapter_model.safetensors").read_bytes() == (learned / "adapter_model.safetensors").read_bytes()
    recipe = (tmp_path / "further" / "stages" / "0001-04-train" / "run" / "training.yaml").read_text()
    assert "start/0001" in recipe
    # Lines that somebody changed are named, and removing their stage makes them again.
    file = tmp_path / "run" / "stages" / "0001-02-sample" / "samples.jsonl"
    before = file.read_text()
    file.write_text(before.replace('"id"', '"ID"', 1))
    shutil.rmtree(tmp_path / "run" / "stages" / "0001-03-select")
    (tmp_path / "run" / "loop.json").unlink()
    answer = loop("run", **short)
    assert answer.code == 2
    assert "samples.jsonl: is not the file on record. Remove" in answer.err
    shutil.rmtree(file.parent)
    assert loop("run", **short).code == 0
    assert file.read_text() == before


@pytest.mark.slow
def test_a_loop_without_one_valid_sample_ends_in_one_line(
    loop: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    answer = loop("run", base=str(small_world / "base"), round=[
        {"draw": {"count": 2}}, {"sample": {"samples": 2}}, {"select": {"at_least": 2}}, {"train": SMALL},
    ])  # fmt: skip
    assert answer.code == 2
    assert "none of the samples of 2 prompts is valid" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "loop.json").exists()
