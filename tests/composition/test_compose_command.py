"""`genepool compose`: a composition comes out that stands wherever a model is named, or one clear error."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import compose_world
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from genepool.composition import fitting
from genepool.composition.gradient import MergedNetwork
from genepool.composition.inputs import TaskInputs, _check_varied, parted
from genepool.composition.residence import Residence
from genepool.errors import InputError
from genepool.locking import holder, locked
from genepool.tasks.answers import Question
from genepool.tasks.models.digits.network import Shape

Compose = Callable[..., Any]
Cli = Callable[..., Any]


def told(answer: Any) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    return dict(json.loads(answer.out))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


# ---------------------------------------------------------------------- what comes out


def test_what_is_composed_is_a_model_folder_and_says_how_it_was_made(
    compose: Compose, cli: Cli, small_bed: Path, tmp_path: Path
) -> None:
    answer = told(compose("out", "--json", "--seed", 3))
    assert answer["schema"] == 1
    assert answer["form"] == "checkpoint"
    assert [skill["name"] for skill in answer["skills"]] == ["first", "second"]
    record = answer["record"]
    assert record["steps"] == len(record["loss"]) == 4
    assert [step for step, _ in record["held_out"]] == [0, 2, 4]
    assert record["examples"]["plain"] == {"learn": 6, "held": 2}
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "compose.yaml", "config.json", "genepool.json", "model.safetensors",
    ]  # fmt: skip
    assert json.loads((out / "genepool.json").read_text())["record"] == record
    asked = told(cli("evaluate", out, "--tasks", small_bed / "tasks", "--json"))
    assert len(asked["results"]) == 4
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes_and_its_file_does_too(
    compose: Compose, cli: Cli, tmp_path: Path
) -> None:
    compose("one")
    compose("two")
    assert cli("compose", tmp_path / "one" / "compose.yaml", "--out", tmp_path / "three").code == 0
    first = (tmp_path / "one" / "model.safetensors").read_bytes()
    assert first == (tmp_path / "two" / "model.safetensors").read_bytes()
    assert first == (tmp_path / "three" / "model.safetensors").read_bytes()
    assert compose("other", "--seed", 1).code == 0
    assert first != (tmp_path / "other" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_at_its_start_it_is_the_sum_of_the_skills(compose: Compose, small_bed: Path, tmp_path: Path) -> None:
    """With a learning rate of next to nothing the coefficients stay where they begin."""
    compose("out", learning_rate=1e-30, start=0.25)
    base = tensors(small_bed / "base")
    skills = [tensors(small_bed / "full" / name) for name in ("first", "second")]
    for name, found in tensors(tmp_path / "out").items():
        expected = base[name] + 0.25 * sum(skill[name] - base[name] for skill in skills)
        assert torch.allclose(found, expected, atol=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["match", "entropy", "infomax", "likelihood"])
def test_a_fit_lowers_what_it_minimises(compose: Compose, objective: str) -> None:
    losses = told(compose("out", "--json", objective=objective, steps=12, batch=100, learning_rate=0.03))["record"][
        "loss"
    ]
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("by", ["task", "layer", "role", "tensor"])
def test_what_shares_a_coefficient_has_the_same_one(compose: Compose, tmp_path: Path, by: str) -> None:
    compose("out", "--keep", by=by)
    found = load_file(tmp_path / "out" / "router.safetensors")["coefficients"]
    counts = {"task": 1, "layer": 6, "role": 6, "tensor": found.shape[1]}
    assert len(found[0].unique()) <= counts[by]
    if by != "task":
        assert len(found[0].unique()) > 1
    assert bool((found >= 0).all())
    assert bool((found <= 1).all())


@pytest.mark.slow
def test_a_single_class_of_file_reads_like_the_options(
    compose: Compose, cli: Cli, small_bed: Path, tmp_path: Path
) -> None:
    """A composition file with relative paths, typed by hand, is the command with the same options."""
    compose("typed", "--task", "first", "--task", "second")
    file = small_bed / "by-hand.yaml"
    said = {
        "compose": 1, "method": "adamerging", "base": "base", "skills": ["full/first", "full/second"], "tasks": "tasks",
        "task": ["first", "second"], "examples": 8, "options": {"steps": 4, "every": 2, "batch": 8},
    }  # fmt: skip
    file.write_text(yaml.safe_dump(said))
    assert cli("compose", file, "--out", tmp_path / "filed").code == 0
    assert (tmp_path / "typed" / "model.safetensors").read_bytes() == (
        tmp_path / "filed" / "model.safetensors"
    ).read_bytes()
    refused = cli("compose", file, "--seed", 3, "--out", tmp_path / "more")
    assert refused.code == 2
    assert "is set by the composition file" in refused.err


@pytest.mark.slow
def test_skills_may_be_skill_files_and_fine_tunes(compose: Compose, cli: Cli, small_bed: Path, tmp_path: Path) -> None:
    """A skill file holds the same change, so the same coefficients come out."""
    file = tmp_path / "first.safetensors"
    cli("skill", "extract", small_bed / "full" / "first", "--base", small_bed / "base", "--out", file)
    compose("tuned")
    compose("filed", skills=(file, "second"))
    one, other = tensors(tmp_path / "tuned"), tensors(tmp_path / "filed")
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


@pytest.mark.slow
def test_streamed_skills_give_the_same_as_held_ones(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compose("held").code == 0
    plan = fitting.plan_residence
    seen: list[Residence] = []

    def tight(*arguments: Any, **more: Any) -> Residence:
        """Room for the network, one gradient and the blocks, and 100 bytes."""
        roomy = plan(*arguments, **more)
        least = roomy.network + roomy.gradient + roomy.blocks
        seen.append(plan(*arguments, **{**more, "free": int(least / 0.75) + 100}))
        return seen[-1]

    monkeypatch.setattr(fitting, "plan_residence", tight)
    assert compose("tight").code == 0
    assert seen[0].streamed == ("first", "second")
    assert "read from the disk in every step: first and second" in seen[0].text()
    one, other = tensors(tmp_path / "held"), tensors(tmp_path / "tight")
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_too_little_memory_is_refused_with_the_figures(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fitting.plan_residence
    monkeypatch.setattr(fitting, "plan_residence", lambda *a, **more: plan(*a, **{**more, "free": 1_000_000}))
    answer = compose("out")
    assert answer.code == 2
    assert "the network and one gradient take 0.01 GB, and 0.00 GB are free" in answer.err


def test_the_list_names_every_composer_and_what_it_can_be_told(cli: Cli) -> None:
    listed = told(cli("compose", "--list", "--json"))["composers"]
    found = {one["name"]: one for one in listed}
    assert set(found["adamerging"]) == {"name", "source", "when", "needs", "out", "cost", "parameters"}
    assert all(parameter["description"] for one in listed for parameter in one["parameters"])
    assert "adamerging" in cli("compose", "--list").out
    assert "learning_rate" in cli("compose", "adamerging", "--list").out


# ---------------------------------------------------------------------- bad input


BAD = [
    ({"method": "adamergin"}, (), r"METHOD: unknown composer 'adamergin'. Did you mean 'adamerging'\?"),
    ({"skills": ("first",)}, (), "adamerging needs 2 or more skills, got 1"),
    ({"skills": ("first", "first")}, (), "two skills are called 'first'"),
    ({"learning_rat": 3}, (), "--set learning_rat: .*Did you mean 'learning_rate'"),
    ({"steps": 0}, (), "--set steps: "),
    ({"low": 5, "high": 1}, (), "start must be from low to high, got 0.3, 5 and 1"),
    ({}, ("--set", "steps"), "--set: got 'steps', expected KEY=VALUE"),
    ({}, ("--bundle",), "--bundle: has no effect without --keep"),
    ({}, ("--task", "absent"), "no task 'absent'"),
    ({}, ("--task", "plain"), r"no task is called like a skill \(first, second\)"),
    ({}, ("--device", "nonsense"), "nonsense"),
    ({}, ("--dtype", "int7"), "int7"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "more", "message"), BAD)
def test_bad_input_is_one_clear_error(
    compose: Compose, tmp_path: Path, settings: dict[str, Any], more: tuple[str, ...], message: str
) -> None:
    answer = compose("out", *more, **settings)
    assert answer.code == 2
    assert re.search(message, answer.err), answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_skill_that_is_the_base_is_refused(cli: Cli, small_bed: Path, tmp_path: Path) -> None:
    skills = [small_bed / "full" / name for name in ("first", "second")]
    tasks = ("--tasks", small_bed / "tasks", "--out", tmp_path / "out")
    answer = cli("compose", "adamerging", *skills, "--base", skills[0], *tasks)
    assert answer.code == 2
    assert "full/first: is the base too, so it changes nothing" in answer.err
    assert not list(tmp_path.iterdir())


def test_missing_arguments_are_named(cli: Cli, small_bed: Path, tmp_path: Path) -> None:
    skills = [small_bed / "full" / name for name in ("first", "second")]
    for arguments, message in (
        (["--out", tmp_path / "o"], "Missing argument 'METHOD'"),
        (["adamerging", *skills], "--out: no folder is named"),
        (["adamerging", "--out", tmp_path / "o"], "Missing argument 'SKILL...'"),
        (["adamerging", *skills, "--out", tmp_path / "o"], "--base: no base is named"),
        (["adamerging", *skills, "--base", small_bed / "base", "--out", tmp_path / "o"], "--tasks: no tasks are named"),
    ):
        answer = cli("compose", *arguments)
        assert answer.code == 2
        assert message in answer.err


def test_what_a_kill_leaves_of_a_fit_is_removed_under_its_lock(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may begin to fit between a look at the lock and the removal."""
    work = tmp_path / ".out.fit"
    for folder in (tmp_path / "out", work):
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
    with locked(work):
        assert "not empty" in compose("out").err
        assert work.exists()
    seen = []
    remove = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda path, **more: (seen.append(holder(path)), remove(path, **more)))
    assert "not empty" in compose("out").err
    assert seen == [os.getpid()]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("more", [(), ("--keep", "--bundle")])
def test_what_is_finished_is_not_composed_again(compose: Compose, tmp_path: Path, more: tuple[str, ...]) -> None:
    first = told(compose("out", "--json", *more))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "out").glob("*.*")}
    again = told(compose("out", "--json", *more))
    assert (first.pop("finished_before"), again.pop("finished_before")) == (False, True)
    assert first == again
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "out").glob("*.*")}
    assert "finished before" in compose("out", *more).out
    for other in (("--seed", 5), ("--examples", 7), ("--set", "start=0.2")):
        refused = compose("out", *more, *other)
        assert refused.code == 2
        assert "not empty" in refused.err
    for weights in (tmp_path / "out").glob("*.safetensors"):
        weights.unlink()
    assert compose("out", *more).code == 2
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_an_output_that_is_there_is_left_alone(compose: Compose, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "not empty" in compose("out").err
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    assert compose("out", "--overwrite").code == 0
    assert not (tmp_path / "out" / "mine.txt").exists()


def test_an_output_that_would_replace_an_input_is_refused(cli: Cli, small_bed: Path) -> None:
    full = small_bed / "full"
    answer = cli(
        "compose", "adamerging", full / "first", full / "second", "--base", small_bed / "base",
        "--tasks", small_bed / "tasks", "--overwrite", "--out", full,
    )  # fmt: skip
    assert answer.code == 2
    assert "lies in the output folder" in answer.err


@pytest.mark.slow
def test_a_skill_of_another_base_or_kind_is_refused(compose: Compose, tmp_path: Path) -> None:
    wide = Shape(12, 2, 2, 12)
    made = {name: torch.zeros(1) for name in ("a",)}
    other = compose_world.save(tmp_path / "other", made, wide)
    answer = compose("out", skills=("first", other))
    assert answer.code == 2
    assert "not a fine-tune of" in answer.err


@pytest.mark.slow
def test_tasks_without_training_examples_are_refused(
    compose: Compose, tmp_path: Path, small_bed: Path, cli: Cli
) -> None:
    tasks = tmp_path / "tasks"
    shutil.copytree(small_bed / "tasks", tasks)
    (tasks / "second" / "train.jsonl").unlink()
    named = [small_bed / "full" / name for name in ("first", "second")]
    call = ("compose", "adamerging", *named, "--base", small_bed / "base", "--tasks", tasks, "--out", tmp_path / "out")
    answer = cli(*call)
    assert answer.code == 2
    assert "no split 'train'" in answer.err
    (tasks / "second" / "train.jsonl").write_text("")
    answer = cli(*call)
    assert answer.code == 2
    assert "second" in answer.err


def one_class(small_bed: Path, folder: Path) -> Path:
    """A copy of the tasks where every input of `second` is an image that the skill is sure of, but for one pixel."""
    shutil.copytree(small_bed / "tasks", folder)
    skill = compose_world.network(2, compose_world.network(0))
    images = torch.randint(0, 17, (256, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        surest = images[skill(images / 16).softmax(-1).amax(-1).argmax()].tolist()
    prompts = [" ".join(map(str, [*surest[:-1], last])) for last in range(16)]
    rows = [json.dumps({"id": prompt[-2:], "prompt": prompt, "answer": "1"}) for prompt in prompts]
    (folder / "second" / "train.jsonl").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.slow
def test_inputs_of_one_class_are_refused_without_labels(cli: Cli, small_bed: Path, tmp_path: Path) -> None:
    tasks = one_class(small_bed, tmp_path / "tasks")
    named = [small_bed / "full" / name for name in ("first", "second")]
    call = ("compose", "adamerging", *named, "--base", small_bed / "base", "--tasks", tasks, *compose_world.quick())
    answer = cli(*call, "--out", tmp_path / "out", "-q")
    assert answer.code == 2
    assert re.search(r"second: .*answers 16 inputs nearly alike \('\d'\), so nothing can be learned", answer.err)
    assert not (tmp_path / "out").exists()
    assert cli(*call, "--out", tmp_path / "out", "--set", "check_inputs=false").code == 0


@pytest.mark.parametrize(("choices", "refused"), [(("a", "b"), False), (("c", "d"), True), ((), True)])
def test_answers_are_alike_or_not_among_the_choices_of_the_task(choices: tuple[str, ...], refused: bool) -> None:
    """A head may hold the classes of many tasks, of which one task asks about a few."""
    labels = tuple("abcdefghijklmnop")
    even = torch.full((16,), 1e-4)
    even[:2] = 0.5
    even[2] = 0.1
    recorded = [(even / even.sum()).log()[None]] * 8
    questions = tuple(Question(str(number), "", "a") for number in range(8))
    network: Any = SimpleNamespace(can={"classes"}, labels=labels, name="skill")
    with pytest.raises(InputError, match="nearly alike") if refused else nullcontext():
        _check_varied(TaskInputs("task", questions, False, *parted(8)), recorded, network, set(choices))


# ---------------------------------------------------------------------- fits that end early


def after_steps(monkeypatch: pytest.MonkeyPatch, count: int, then: Callable[[], float]) -> None:
    """From the call after `count`, what a step's loss is comes from `then`."""
    gradient, calls = MergedNetwork.gradient, [0]

    def counted(self: MergedNetwork, losses: Any, move: Any = None) -> Any:
        calls[0] += 1
        loss, slopes = gradient(self, losses, move)
        return (then(), slopes) if calls[0] > count else (loss, slopes)

    monkeypatch.setattr(MergedNetwork, "gradient", counted)


@pytest.mark.slow
def test_a_fit_that_was_interrupted_goes_on_to_the_same_bits(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> float:
        raise KeyboardInterrupt

    compose("whole")
    with monkeypatch.context() as patch:
        after_steps(patch, 3, interrupted)
        assert compose("out").code == 130
    assert [path.name for path in tmp_path.glob(".*")] == [".out.fit"]
    assert not (tmp_path / "out").exists()
    steps: list[int] = []
    with monkeypatch.context() as patch:
        after_steps(patch, 0, lambda: steps.append(1) or 0.5)  # type: ignore[func-returns-value]
        assert compose("out").code == 0
    # Two of its four steps stood on the disk.
    assert len(steps) == 2
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_a_fit_that_was_interrupted_before_its_first_step_looks_no_second_time(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second look at the same state would be one without a lower loss, after which patience may end the fit."""

    def interrupted() -> float:
        raise KeyboardInterrupt

    assert compose("whole", patience=1, every=1).code == 0
    with monkeypatch.context() as patch:
        after_steps(patch, 0, interrupted)
        assert compose("out", patience=1, every=1).code == 130
    assert compose("out", patience=1, every=1).code == 0
    for file in ("genepool.json", "model.safetensors"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.slow
def test_a_fit_goes_on_to_the_same_bits_where_other_memory_is_free(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which skills are held, and in which order gradients are added up, is what it was when the fit began."""

    def interrupted() -> float:
        raise KeyboardInterrupt

    plan = fitting.plan_residence
    seen: list[Residence] = []

    def planned(*arguments: Any, **more: Any) -> Residence:
        """With room for the network, one gradient and the blocks, where a plan was made before."""
        if seen:
            least = seen[0].network + seen[0].gradient + seen[0].blocks
            more["free"] = int(least / 0.75) + 100
        seen.append(plan(*arguments, **more))
        return seen[-1]

    assert compose("whole").code == 0
    monkeypatch.setattr(fitting, "plan_residence", planned)
    with monkeypatch.context() as patch:
        after_steps(patch, 3, interrupted)
        assert compose("out").code == 130
    assert compose("out").code == 0
    began, now, then = seen[0], seen[-2], seen[-1]
    assert then.decisions() == began.decisions() == {"held": ["first", "second"], "add_up": True}
    assert now.streamed == ("first", "second")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_what_is_kept_of_another_fit_is_not_gone_on_with(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> float:
        raise KeyboardInterrupt

    compose("whole", "--seed", 5)
    with monkeypatch.context() as patch:
        after_steps(patch, 3, interrupted)
        assert compose("out").code == 130
    assert compose("out", "--seed", 5).code == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_fit_at_its_last_good_state(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    after_steps(monkeypatch, 3, lambda: float("nan"))
    record = told(compose("out", "--json"))["record"]
    assert (record["steps"], record["best_step"]) == (3, 2)
    assert record["stopped"] == "the loss of step 4 is not a finite number"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors(tmp_path / "out").values())


@pytest.mark.slow
def test_a_first_loss_that_is_no_number_is_an_error(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    after_steps(monkeypatch, 0, lambda: float("nan"))
    answer = compose("out")
    assert answer.code == 2
    assert "is not a finite number before anything was learned" in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_composition_that_is_made_of_itself_is_refused(cli: Callable[..., Any], tmp_path: Path) -> None:
    said = {
        "genepool_composition": 1, "method": "adamerging", "parameters": {}, "skills": [], "labels": {}, "record": {},
        "base": {"path": str(tmp_path), "fingerprint": "0" * 64},
    }  # fmt: skip
    (tmp_path / "composition.json").write_text(json.dumps(said))
    answer = cli("inspect", tmp_path)
    assert answer.code == 2
    assert "is made of itself" in answer.err


@pytest.mark.slow
def test_a_first_look_that_is_no_number_is_an_error(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from genepool.composition.fitting import CoefficientFit

    monkeypatch.setattr(CoefficientFit, "_held_loss", lambda *_: float("nan"))
    answer = compose("out")
    assert answer.code == 2
    assert "is not a finite number before anything was learned" in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_fit_ends_when_what_is_held_out_gets_worse_twice(compose: Compose) -> None:
    """A step as large as this one leaves every coefficient at an end of its range."""
    record = told(compose("out", "--json", learning_rate=1.0, steps=40, every=1, patience=2, objective="entropy"))[
        "record"
    ]
    held = dict(record["held_out"])
    assert record["steps"] < 40
    assert record["stopped"] == "held-out loss rose"
    assert held[record["best_step"]] == min(held.values())


# ---------------------------------------------------------------------- compositions beside their skills


def kept(compose: Compose, out: str = "kept", *more: Any) -> None:
    assert compose(out, "--keep", *more).code == 0


@pytest.mark.slow
def test_what_is_kept_answers_as_what_is_folded(compose: Compose, cli: Cli, small_bed: Path, tmp_path: Path) -> None:
    kept(compose)
    kept(compose, "bundled", "--bundle")
    compose("folded")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "README.md", "composition.json", "router.safetensors",
    ]  # fmt: skip
    models = [tmp_path / name for name in ("kept", "bundled", "folded")]
    asked = told(cli("evaluate", *models, "--tasks", small_bed / "tasks", "--json"))["results"]
    means = [[one["mean"] for one in asked if one["model"] == str(model)] for model in models]
    assert means[0] == means[1] == means[2]
    # As weights it is merged, compared and bred like any other.
    recipe = tmp_path / "linear.yaml"
    recipe.write_text(yaml.safe_dump({"genepool": 1, "method": "linear", "models": [str(models[0]), str(models[1])]}))
    assert cli("merge", recipe, tmp_path / "merged").code == 0
    one, other = tensors(tmp_path / "merged"), tensors(tmp_path / "folded")
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    assert cli("compare", small_bed / "base", models[0], "--tasks", small_bed / "tasks").code == 0


def test_skills_that_are_missing_or_altered_are_listed_with_their_hashes(
    compose: Compose, cli: Cli, small_bed: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(small_bed / "full", own)
    compose("kept", "--keep", skills=(own / "first", own / "second", own / "third"))
    said = json.loads((tmp_path / "kept" / "composition.json").read_text())
    digests = {skill["name"]: skill["fingerprint"] for skill in said["skills"]}
    shutil.rmtree(own / "first")
    weights = tensors(own / "second")
    save_file(weights | {"head.bias": weights["head.bias"] + 1}, own / "second" / "model.safetensors", {"format": "pt"})
    answer = cli("evaluate", tmp_path / "kept", "--tasks", small_bed / "tasks")
    assert answer.code == 2
    assert "2 of 3 skills cannot be used" in answer.err
    assert f"first (sha256 {digests['first'][:12]}) is missing at {own / 'first'}" in answer.err
    assert "second was altered (sha256 " in answer.err
    assert f"expected {digests['second'][:12]})" in answer.err
    assert "third" not in answer.err


@pytest.mark.slow
def test_a_base_that_was_altered_is_refused(compose: Compose, cli: Cli, small_bed: Path, tmp_path: Path) -> None:
    kept(compose)
    file = tmp_path / "kept" / "composition.json"
    said = json.loads(file.read_text())
    said["base"]["fingerprint"] = "0" * 64
    file.write_text(json.dumps(said))
    answer = cli("evaluate", tmp_path / "kept", "--tasks", small_bed / "tasks")
    assert answer.code == 2
    assert re.search(r"its base is another one \(sha256 \w{12}, expected 000000000000\)", answer.err)


DAMAGE: list[tuple[str, Any, str]] = [
    ("method", "nosuch", "unknown composer 'nosuch'"),
    ("method", 3, "composition.json:method: got a number"),
    ("genepool_composition", 2, "was written by a newer genepool"),
    ("genepool_composition", "x", "is no composition of genepool's"),
    ("parameters", {"steps": "many"}, "composition.json:parameters:steps"),
    ("skills", "none", "composition.json:skills: got text"),
    ("skills", [3, 4], r"composition.json:skills\[0\]: got a number"),
    ("labels", {"tensors": ["a"]}, r"coefficients: has shape \[2, 32, 1\], expected \[2, 1, 1\]"),
    ("labels", {"tensors": list(map(str, range(32)))}, "are of other tensors than the skills change"),
    ("labels", {"tensors": 3}, "composition.json:labels.tensors: is not a list of names"),
    ("base", {"path": 3}, "its path or its fingerprint is damaged"),
    ("record", [], "composition.json:record: got a list"),
    ("recrd", {}, "composition.json: unknown key 'recrd'. Did you mean 'record'"),
    ("tensors", ["coefficients", "more"], "composition.json:tensors: names other tensors than router.safetensors"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value", "message"), DAMAGE)
def test_a_damaged_composition_is_refused(
    compose: Compose, cli: Cli, small_bed: Path, tmp_path: Path, key: str, value: Any, message: str
) -> None:
    kept(compose)
    file = tmp_path / "kept" / "composition.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    answer = cli("evaluate", tmp_path / "kept", "--tasks", small_bed / "tasks")
    assert answer.code == 2
    assert re.search(message, answer.err), answer.err


@pytest.mark.slow
def test_a_file_outside_the_folder_is_not_opened_as_a_bundled_skill(
    compose: Compose, cli: Cli, small_bed: Path, tmp_path: Path
) -> None:
    kept(compose, "kept", "--bundle")
    file = tmp_path / "kept" / "composition.json"
    said = json.loads(file.read_text())
    said["skills"][0]["bundled"] = "../first.safetensors"
    file.write_text(json.dumps(said))
    assert "is not inside the folder" in cli("evaluate", tmp_path / "kept", "--tasks", small_bed / "tasks").err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("router", "message"),
    [
        ({}, "coefficients: the tensor is missing"),
        ({"coefficients": torch.zeros(2, 3, 1)}, r"coefficients: has shape \[2, 3, 1\], expected \[2, 32, 1\]"),
        ({"coefficients": torch.full((2, 32, 1), float("nan"))}, "holds values that are no finite numbers"),
        ({"coefficients": torch.zeros(2, 32, 1, dtype=torch.int64)}, "coefficients: is of type int64, expected floats"),
        (
            {"coefficients": torch.zeros(2, 32, 1), "more": torch.zeros(1)},
            "safetensors:more: the composition has no such",
        ),
        (None, "router.safetensors: is damaged"),
    ],
)
def test_a_damaged_router_is_refused(
    compose: Compose, cli: Cli, small_bed: Path, tmp_path: Path, router: dict[str, torch.Tensor] | None, message: str
) -> None:
    kept(compose)
    file = tmp_path / "kept" / "router.safetensors"
    if router is None:
        file.write_bytes(b"no tensors")
    else:
        save_file(router, file)
    answer = cli("evaluate", tmp_path / "kept", "--tasks", small_bed / "tasks")
    assert answer.code == 2
    assert re.search(message, answer.err), answer.err


def test_an_output_that_another_published_meanwhile_is_found_before_the_fit(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if another command had fitted and published between the first look at the output and the lock."""
    from genepool.composition import run

    locked = run.locking.locked

    def after_another(work: Path) -> Any:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("theirs")
        return locked(work)

    monkeypatch.setattr(run.locking, "locked", after_another)
    answer = compose("out")
    assert answer.code == 2
    assert "the output folder is not empty" in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]


def test_a_finished_composition_called_again_removes_the_lock_that_a_kill_left(
    cli: Cli, small_bed: Path, tmp_path: Path
) -> None:
    typed = [
        "compose", "regmean", small_bed / "full" / "first", small_bed / "full" / "second", "--base", small_bed / "base",
        "--tasks", small_bed / "tasks", "--examples", 4, "--out", tmp_path / "out", "--json",
    ]  # fmt: skip
    assert cli(*typed).code == 0
    (tmp_path / ".out.lock").write_text("")
    answer = cli(*typed)
    assert (answer.code, json.loads(answer.out)["finished_before"]) == (0, True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
