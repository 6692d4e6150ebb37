"""Tasks learned one after another, as it is typed: what is written, killed and resumed, told and refused."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_runs import result_bytes, rows, told

from genepool.tasks import Ledger, evaluate, load_tasks
from genepool.training import run as running
from genepool.training.learners import learners
from genepool.weights import open_weights

# Every learner, with settings under which all of it is used in short trainings.
SETTINGS: dict[str, list[str]] = {
    "replay": ["--set", "examples=8"],
    "der_pp": ["--set", "size=12", "--set", "minibatch=4"],
    "momentum": ["--set", "decay=0.7"],
    "experts": ["--set", "start=nearest", "--set", "examples=12", "--set", "trials=2", "--set", "span=2"],
    "ewc": ["--set", "examples=4", "--set", "weight=5"],
    "gpm": ["--set", "examples=6", "--set", "energy=0.5"],
    "trgp": ["--set", "examples=6", "--set", "energy=0.5", "--set", "related=0"],
    "cuber": ["--set", "examples=6", "--set", "energy=0.5", "--set", "related=0"],
    "prd": ["--set", "hidden=6", "--set", "size=4"],
    "few_shot": ["--set", "contrast=0.5", "--set", "subnet=0.5"],
    "inf_lora": ["--set", "examples=6", "--set", "energy=0.5"],
    "sequential": ["--set", "factors=each"],
    "slm": ["--set", "deltas=2", "--set", "groups=2"],
}
SHORT = ("--steps", 6, "--every", 3, "--batch", 8, "--learning-rate", 0.02, "--test", 6, "--quiet")


@pytest.fixture
def learn(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> Callable[..., Any]:
    """`learn("run", "replay", *options)`: the tasks `first` and `grade` in order."""

    def call(out: str, learner: str, *options: Any, tasks: tuple[str, ...] = ("first", "grade")) -> Any:
        named = [small_world / "tasks" / name for name in tasks]
        kind = learners().get(learner)
        model = "classifier" if kind is not None and kind.classes_only else "base"
        base = ("--base", small_world / model, "--out", tmp_path / out)
        return cli("train", *named, "--learner", learner, *base, *SHORT, "--lora", 2, *options)

    return call


def tensors(folder: Path) -> dict[str, bytes]:
    kept = folder.rglob("*.safetensors")
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


@pytest.mark.slow
def test_what_is_told_is_computed_from_the_outcomes_on_record(learn: Callable[..., Any], tmp_path: Path) -> None:
    answer = learn("run", "replay", *SETTINGS["replay"], "--json")
    assert answer.code == 0, answer.err
    said = told(tmp_path / "run")
    assert {key: json.loads(answer.out)[key] for key in ("matrix", "acc", "memory_bytes")} == {
        key: said[key] for key in ("matrix", "acc", "memory_bytes")
    }
    means = {
        (stage, task): mean
        for stage, task, mean in rows(
            tmp_path / "run", "SELECT stage, task, avg(score) FROM outcomes GROUP BY stage, task"
        )
    }
    assert said["sequence"] == ["first", "grade"]
    assert said["untrained"] == [means[0, name] for name in said["sequence"]]
    assert said["matrix"] == [[means[stage, name] for name in said["sequence"]] for stage in (1, 2)]
    assert said["acc"] == pytest.approx(sum(said["matrix"][1]) / 2)
    assert said["bwt"] == pytest.approx(said["matrix"][1][0] - said["matrix"][0][0])
    assert said["fwt"] == pytest.approx(said["matrix"][0][1] - said["untrained"][1])
    assert said["steps"] == 12
    assert [stage["memory_bytes"] for stage in said["stages"]] == [8 * 5, 16 * 5]
    assert said["target"][0]["after"] == said["matrix"][1][0]
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert "<svg" in (tmp_path / "run" / "report.html").read_text()
    # The rehearsed task is in the steps of the second one.
    drawn = rows(tmp_path / "run" / "tasks" / "0002", "SELECT task, count(*) FROM examples GROUP BY task ORDER BY task")
    assert drawn == [("first", 24), ("grade", 24)]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(learners()))
def test_a_killed_run_goes_on_to_the_same_bits(
    learn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    options = SETTINGS.get(name, [])
    assert learn("whole", name, *options).code == 0
    after = running.Run._after
    counted = {"steps": 0}

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        counted["steps"] += 1
        if counted["steps"] == 10:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert learn("stopped", name, *options).code == 130
    assert not (tmp_path / "stopped" / "train.json").exists()
    assert learn("stopped", name, *options).code == 0
    assert tensors(tmp_path / "stopped") == tensors(tmp_path / "whole")
    assert told(tmp_path / "stopped") == told(tmp_path / "whole")
    query = "SELECT * FROM outcomes ORDER BY 1, 2, 3"
    assert rows(tmp_path / "stopped", query) == rows(tmp_path / "whole", query)


@pytest.mark.slow
def test_a_finished_run_called_again_changes_nothing_and_its_steps_can_be_repeated(
    learn: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path
) -> None:
    assert learn("run", "sequential").code == 0
    before = {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}
    assert learn("run", "sequential").code == 0
    assert before == {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}
    assert cli("verify-run", tmp_path / "run", "--step", 8, "--quiet").code == 0
    answer = cli("verify-run", tmp_path / "run", "--step", 13, "--quiet")
    assert answer.code == 2
    assert "Name a step from 1 to 12" in answer.err
    answer = cli("report", tmp_path / "run", "--out", tmp_path / "page.md", "--quiet")
    assert answer.code == 0, answer.err
    assert "## Matrix" in (tmp_path / "page.md").read_text()
    result = tmp_path / "run" / "train.json"
    known = told(tmp_path / "run")
    for key, wrong in {"stages": [{**known["stages"][0], "tasks": [7]}], "total_compute": "1", "matrix": [[]]}.items():
        result.write_text(json.dumps({**known, key: wrong}))
        for answer in (learn("run", "sequential"), cli("report", tmp_path / "run", "--overwrite", "--quiet")):
            assert (answer.code, answer.err.count("\n")) == (2, 1)
            assert f"train.json:{key}: is damaged" in answer.err


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "der_pp" else [pytest.mark.slow]) for name in sorted(learners())]
)
def test_a_task_may_have_fewer_examples_than_a_step_takes(
    learn: Callable[..., Any], small_world: Path, tmp_path: Path, name: str
) -> None:
    """A step then has some of them twice."""
    few = tmp_path / "few"
    shutil.copytree(small_world / "tasks" / "first", few)
    lines = (few / "train.jsonl").read_text().splitlines(keepends=True)
    (few / "train.jsonl").write_text("".join(lines[:3]))
    answer = learn("run", name, *SETTINGS.get(name, []), tasks=(str(few), "grade"))
    assert answer.code == 0, answer.err


@pytest.mark.slow
def test_every_tensor_can_be_learned_in_order_and_the_next_task_begins_where_the_last_one_ended(
    learn: Callable[..., Any], cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    named = [small_world / "tasks" / name for name in ("first", "grade")]
    shared = ("--base", small_world / "base", "--full", *SHORT, "--out")
    assert cli("train", *named, "--learner", "ewc", "--set", "examples=4", *shared, tmp_path / "ewc").code == 0
    assert cli("train", *named, "--learner", "sequential", *shared, tmp_path / "plain").code == 0
    from safetensors.torch import load_file

    # The first task knows no earlier one.
    first, plain = (load_file(tmp_path / run / "tasks" / "0001" / "skill.safetensors") for run in ("ewc", "plain"))
    assert all(tensor.equal(plain[name]) for name, tensor in first.items())
    assert result_bytes(tmp_path / "ewc") != result_bytes(tmp_path / "plain")
    last = load_file(tmp_path / "plain" / "tasks" / "0001" / "states" / "0000006" / "state.safetensors")
    start = load_file(tmp_path / "plain" / "tasks" / "0002" / "states" / "0000000" / "state.safetensors")
    assert all(tensor.equal(last[name]) for name, tensor in start.items())


@pytest.mark.slow
def test_merging_is_the_merge_of_the_results_and_joint_learning_has_one_row(
    learn: Callable[..., Any], cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    assert learn("run", "merging", "--set", "method=task_arithmetic").code == 0
    base, run = small_world / "base", tmp_path / "run"
    models = [f"{base}+{run / 'tasks' / number / 'adapter'}" for number in ("0001", "0002")]
    recipe = tmp_path / "merge.yaml"
    recipe.write_text(json.dumps({"genepool": 1, "method": "task_arithmetic", "base": str(base), "models": models}))
    assert cli("merge", recipe, tmp_path / "merged", "--quiet").code == 0
    from genepool.weights import open_weights

    ours = open_weights(f"{base}+{run / 'skill.safetensors'}")
    theirs = open_weights(str(tmp_path / "merged"))
    for name in theirs.names():
        assert ours.read(name).sub(theirs.read(name)).abs().max() < 1e-6
    assert told(run)["memory_bytes"] > 0
    assert learn("joint", "joint").code == 0
    said = told(tmp_path / "joint")
    assert len(said["matrix"]) == 1
    assert said["bwt"] is None
    assert said["kept"] == []
    assert rows(tmp_path / "joint" / "tasks" / "0001", "SELECT count(*) FROM steps") == [(12,)]


@pytest.mark.slow
def test_experts_are_asked_their_own_tasks_and_begin_with_the_nearest(
    learn: Callable[..., Any], tmp_path: Path
) -> None:
    assert learn("run", "experts", *SETTINGS["experts"]).code == 0
    said = told(tmp_path / "run")
    assert said["bwt"] == 0
    assert said["matrix"][0][1] == said["untrained"][1]
    facts = said["stages"][1]["facts"]
    assert len(facts["nearest"]) == 2
    assert facts["nearest"][facts["began_with"]] == max(facts["nearest"])
    # A task that begins with the base has no start on the disk.
    start = tmp_path / "run" / "tasks" / "0002" / "states" / "0000000"
    assert start.is_dir() == (facts["began_with"] == 1)
    prints = rows(tmp_path / "run", "SELECT fingerprint FROM stages ORDER BY stage")
    assert len(set(prints)) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("loud")
def test_tasks_that_share_examples_are_told(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(small_world / "tasks" / "first", tmp_path / "tasks" / name)
    answer = cli(
        "train", tmp_path / "tasks" / "one", tmp_path / "tasks" / "two", "--learner", "sequential", "--base",
        small_world / "base", "--out", tmp_path / "run", "--steps", 2, "--batch", 4, "--test", 4,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "one and two share 48 examples" in answer.err
    assert told(tmp_path / "run")["shared"] == [{"tasks": ["one", "two"], "examples": 48}]


@pytest.mark.slow
@pytest.mark.usefixtures("loud")
def test_a_budget_that_has_no_room_is_told(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    named = [small_world / "tasks" / name for name in ("first", "grade")]
    answer = cli(
        "train", *named, "--learner", "replay", "--set", "budget=1", "--base", small_world / "base", "--out",
        tmp_path / "run", "--steps", 1, "--batch", 4, "--test", 4,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    said = answer.err.replace("\n", " ")
    for name in ("first", "grade"):
        assert f"{name}: the budget (1 B) has no room for an example, so none is rehearsed" in said
    assert told(tmp_path / "run")["memory_bytes"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("loud")
def test_of_a_task_that_the_base_answers_right_nothing_can_be_gained(
    cli: Callable[..., Any], small_world: Path, half_known: str, tmp_path: Path
) -> None:
    known = shutil.copytree(small_world / "tasks" / "first", tmp_path / "known")
    with Ledger(":memory:") as book:
        answers = evaluate([open_weights(half_known)], load_tasks(known), split="test", ledger=book, names=["half"])
    lines = (known / "test.jsonl").read_text().splitlines()
    scores = [one.score for one in answers.outcomes("half", "known")]
    (known / "test.jsonl").write_text("".join(f"{line}\n" for line, score in zip(lines, scores, strict=True) if score))
    answer = cli(
        "train", known, small_world / "tasks" / "grade", "--learner", "sequential", "--base", half_known, "--out",
        tmp_path / "run", "--steps", 1, "--batch", 4, "--test", 4,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    said = answer.err.replace("\n", " ")
    assert "known: the base answers every test example right, so nothing can be gained" in said
    assert "grade: the base answers every test example right" not in said


@pytest.mark.slow
def test_gates_decide_the_exit_of_tasks_learned_in_order(learn: Callable[..., Any], tmp_path: Path) -> None:
    easy, hard, wrong = (tmp_path / f"{name}.yaml" for name in ("easy", "hard", "wrong"))
    for file, task, least in ((easy, "first", -1), (hard, "grade", 0.99), (wrong, "grad", 0)):
        file.write_text(f"gates:\n  - {{task: {task}, measure: difference, at_least: {least}}}\n")
    answer = learn("run", "sequential", "--gate", wrong)
    assert answer.code == 2
    assert "no task 'grad' is compared. Did you mean 'grade'?" in answer.err
    assert not (tmp_path / "run").exists()
    answer = learn("run", "sequential", "--gate", hard)
    assert answer.code == 1
    assert "1 of 1 gates do not hold" in answer.err
    before = told(tmp_path / "run")
    # Of a finished run the gates are asked too, out of the ledger.
    assert learn("run", "sequential", "--gate", hard).code == 1
    assert learn("run", "sequential", "--gate", easy).code == 0
    assert told(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("learner", "options", "tasks", "said"),
    [
        ("replay", ("--set", "examples=0"), 2, "--set examples"),
        ("replay", ("--set", "budget=0"), 2, "--set budget"),
        ("replay", ("--set", "share=1"), 2, "--set share"),
        ("replay", ("--batch", 1), 2, "error: --batch: got 1, which leaves no room for a kept example"),
        ("inf_lora", ("--lora", 40), 2, "error: --lora: got 40, and model.layers.0.self_attn.q_proj has only 32"),
        ("ewc", ("--set", "weight=-1"), 2, "--set weight"),
        ("gpm", ("--set", "energy=1.5"), 2, "--set energy"),
        ("merging", ("--set", "method=tis"), 2, "there is no merge method 'tis'"),
        ("sequential", (), 1, "got 1 task, expected at least 2"),
        ("seqential", (), 2, "there is no learner 'seqential'"),
        ("o_lora", ("--full",), 2, "trains factors alone"),
        ("lwf", ("--objective", "dpo"), 2, "does not go with the learner lwf"),
        ("lwf", ("--patience", 2), 2, "does not go with the learner lwf"),
        ("lwf", ("--fork", "elsewhere"), 2, "does not go with a learner"),
        (
            "lwf",
            ("--sampler", "sec"),
            2,
            "error: --sampler: does not go with the learner lwf, which takes the tasks one",
        ),
        ("lwf", ("--form", "hydra"), 2, "error: --form: the learner lwf trains factors or every tensor, and no form"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path, learner: str, options: Any, tasks: int, said: str
) -> None:
    named = [small_world / "tasks" / name for name in ("first", "grade")][:tasks]
    answer = cli(
        "train", *named, "--learner", learner, "--base", small_world / "base", "--out", tmp_path / "run", "-q", *options
    )
    assert answer.code == 2, answer.out
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1, answer.err
    assert said in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["batch", "lora.jsonl", "options.deltas"])
def test_a_path_that_reads_like_an_option_is_told_as_the_path(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = cli("train", name, "--base", small_world / "base", "--out", "run")
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    assert f"{name}: no such" in line
    assert "--" not in line.split(": no such")[0]


@pytest.mark.slow
def test_a_changed_run_and_a_damaged_memory_are_refused(
    learn: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path
) -> None:
    assert learn("run", "ewc", *SETTINGS["ewc"]).code == 0
    answer = learn("run", "ewc", *SETTINGS["ewc"][:3], "weight=6")
    assert answer.code == 2
    assert "the training changed since it began" in answer.err
    assert "weight" in answer.err
    run = tmp_path / "run"
    shutil.rmtree(run / "tasks" / "0002")
    (run / "train.json").unlink()
    (run / "tasks" / "0001" / "memory.safetensors").write_bytes(b"no tensors")
    answer = learn("run", "ewc", *SETTINGS["ewc"])
    assert answer.code == 2
    assert "the memory cannot be used" in answer.err
    assert answer.err.count("\n") == 1
    with sqlite3.connect(run / "run.sqlite") as database:
        assert database.execute("SELECT count(*) FROM stages").fetchone() == (2,)


def test_the_plan_names_the_order(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    recipe = {
        "train": 1, "base": str(small_world / "base"), "learner": "replay", "steps": 5, "options": {"examples": 4},
        "tasks": [str(small_world / "tasks" / name) for name in ("grade", "first")],
    }  # fmt: skip
    file = tmp_path / "order.yaml"
    file.write_text(json.dumps(recipe))
    answer = cli("plan", file, "--json")
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    assert said["sequence"] == ["grade", "first"]
    assert said["steps"] == 10
    assert [stage["steps"] for stage in said["stages"]] == [5, 5]
    answer = cli("plan", file)
    assert answer.out.startswith("1. grade: 48 examples, 5 steps")
    assert "learner replay" in answer.out


def test_a_sampler_has_nothing_to_choose_where_the_order_is_given(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    named = [small_world / "tasks" / name for name in ("first", "grade")]
    base = ("--base", small_world / "base", "--out", tmp_path / "run")
    answer = cli("train", *named, "--learner", "lwf", "--sampler", "uniform", *base)
    assert answer.code == 2
    assert "does not go with the learner lwf" in answer.err
