"""`genepool init`: what it writes can be planned and run as typed, bases are found, and misfits are refused."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from genepool.evolution import load_study
from genepool.evolution.study import resolve_model
from genepool.merging import load_recipe
from genepool.projects import family
from genepool.projects.family import _short_names
from genepool.projects.folder import placed
from genepool.projects.lineage import origins_of
from genepool.tasks.models.digits.network import Shape
from genepool.testbed.digits.model import new_base
from tests.tasks.tiny_models import write_classifier, write_image_classifier, write_model, write_translator

Cli = Callable[..., Any]


def write_digits(folder: Path) -> Path:
    """Saves a random model of the digits testbed."""
    model = new_base(Shape(hidden=16, layers=2, heads=2, feed_forward=24), 0)
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.shape.config()))
    return folder


WRITERS: dict[str, Callable[..., Path]] = {
    "causal": write_model,
    "t5": write_translator,
    "bert": write_classifier,
    "vit": write_image_classifier,
    "digits": write_digits,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder one stands in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of every kind, one of another width, and two fine-tunes of the first."""
    folder = tmp_path_factory.mktemp("models")
    for name, write in WRITERS.items():
        write(folder / name)
        tuned(folder / name, folder / f"{name}-tuned")
    tuned(folder / "causal", folder / "causal-other", seed=2)
    write_model(folder / "wide", hidden_size=32)
    write_model(folder / "gpt", kind="gpt2")
    write_model(folder / "foreign", seed=9, hidden_size=64)
    write_model(folder / "large", hidden_size=64)
    return folder


def tuned(base: Path, out: Path, *, seed: int = 1) -> Path:
    """A copy with every tensor moved a little."""
    shutil.copytree(base, out)
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(out / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = tensor + 0.02 * torch.randn(tensor.shape, generator=generator)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def says(folder: Path, **config: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


def copied(made: Path, here: Path, *names: str) -> None:
    for name in names:
        shutil.copytree(made / name, here / name)


# ---------------------------------------------------------------------- what is written


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_written_plans_and_is_asked_as_it_is(made: Path, here: Path, cli: Cli, kind: str) -> None:
    copied(made, here, kind, f"{kind}-tuned")
    answer = cli("init", "project", f"{kind}-tuned", kind, "--base", kind, "--quiet")
    assert (answer.code, answer.err) == (0, "")
    plan, *_ = answer.out.splitlines()
    assert plan == "genepool plan project/recipe.yaml"
    for file in ("recipe.yaml", "study.yaml", "training.yaml"):
        planned = cli("plan", f"project/{file}", "--json", "--quiet")
        assert planned.code == 0, planned.err
    asked = cli("evaluate", kind, f"{kind}-tuned", "--tasks", "project/tasks", "--json", "--quiet")
    assert asked.code == 0, asked.err
    assert [row["n"] for row in json.loads(asked.out)["results"]] == [8, 8]
    assert sorted(path.name for path in here.iterdir() if path.name.startswith(".")) == []


def run_lines(cli: Cli, lines: list[str]) -> None:
    """The commands as they are typed, the search and the training cut short."""
    for line in lines:
        words = shlex.split(line)
        short = {"evolve": ["--budget", "4"], "train": []}.get(words[1], [])
        answer = cli(*words[1:], *short, "--quiet")
        assert answer.code == 0, f"{line}: {answer.err}"


@pytest.mark.slow
def test_models_without_a_head_get_a_task_with_classes_and_commands_that_run(
    made: Path, here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BertModel alone: nothing can be asked before a training has made a head."""
    for name in ("bert", "bert-tuned"):
        shutil.copytree(made / name, here / name)
        tensors = load_file(here / name / "model.safetensors")
        body = {key.removeprefix("bert."): tensor for key, tensor in tensors.items() if key.startswith("bert.")}
        save_file(body, here / name / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((here / name / "config.json").read_text())
        del config["id2label"], config["label2id"]
        (here / name / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    answer = cli("init", "project", "bert", "bert-tuned", "--base", "bert", "--json", "--quiet")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert "study.yaml" not in told["files"]
    assert [line.split()[1] for line in told["commands"]] == ["plan", "merge", "train", "evaluate"]
    training = here / "project" / "training.yaml"
    training.write_text(training.read_text().replace("steps: 200", "steps: 2"))
    run_lines(cli, told["commands"])
    assert yaml.safe_load((here / "project/tasks/example/task.yaml").read_text())["classes"] == ["class-a", "class-b"]
    typed = [line.strip() for line in Path("project/README.md").read_text().splitlines() if "    genepool " in line]
    for name in ("merged", "trained"):
        shutil.rmtree(here / "project" / name)
    monkeypatch.chdir(here / "project")
    run_lines(cli, typed)


@pytest.mark.slow
@pytest.mark.parametrize("skills", [("reverse", "sort"), ("reverse",), ("reverse", "sort", "upper", "caesar", "half")])
def test_the_commands_run_as_they_are_printed(
    here: Path, cli: Cli, tiny_testbed: Any, skills: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From adapters alone, a name with a space among them; then those of the README, in the folder."""
    shutil.copytree(tiny_testbed.base, here / "base")
    for skill in skills:
        shutil.copytree(tiny_testbed.lora["upper" if skill == "half" else skill], here / f"my {skill}")
    answer = cli("init", "project", *(f"my {skill}" for skill in skills), "--base", "base", "--json", "--quiet")
    told = json.loads(answer.out)
    assert [one["name"] for one in told["models"]] == [f"my {skill}" for skill in skills]
    assert {one["form"] for one in told["models"]} == {"adapter"}
    run_lines(cli, told["commands"])
    assert {"merged", "run", "trained"} <= {path.name for path in (here / "project").iterdir()}
    for name in ("merged", "run", "trained"):
        shutil.rmtree(here / "project" / name)
    monkeypatch.chdir(here / "project")
    typed = [line.strip() for line in Path("README.md").read_text().splitlines() if line.startswith("    genepool ")]
    assert len(typed) == len(told["commands"])
    run_lines(cli, typed)


def test_the_method_goes_by_the_number_of_models(here: Path, cli: Cli, tiny_testbed: Any) -> None:
    lora, full = tiny_testbed.lora, tiny_testbed.full
    base = tiny_testbed.base
    for models, method, searched in (
        ([lora["sort"]], "task_arithmetic", "linear"),
        ([*lora.values()], "task_arithmetic", "task_arithmetic"),
        ([*lora.values(), full["sort"]], "ties", "ties"),
    ):
        answer = cli("init", "p", base, *models, "--overwrite", "--quiet")
        assert answer.code == 0, answer.err
        assert load_recipe(here / "p" / "recipe.yaml").method == method
        study = load_study(here / "p" / "study.yaml")
        assert study.vary.how == searched
        # A model given as an absolute path stays one.
        assert Path(study.base).resolve() == base.resolve()
        for file in ("recipe.yaml", "study.yaml"):
            assert cli("plan", here / "p" / file, "--quiet").code == 0


def test_relative_names_lead_from_the_folder_and_with_the_name_of_a_base(made: Path, here: Path, cli: Cli) -> None:
    copied(made, here, "causal", "causal-tuned", "causal-other")
    os.rename("causal-other", "an ä: #1")
    answer = cli("init", "deep/er/project", "causal-tuned", "./an ä: #1", "--base", "./causal", "--json", "--quiet")
    assert answer.code == 0, answer.err
    recipe = load_recipe(here / "deep" / "er" / "project" / "recipe.yaml")
    assert recipe.base == "../../../causal"
    assert recipe.model_names()[1:] == ["../../../causal-tuned", "../../../an ä: #1"]
    moved = here / "elsewhere"
    moved.mkdir()
    os.chdir(moved)
    assert cli("plan", "../deep/er/project/recipe.yaml", "--quiet").code == 0


# ---------------------------------------------------------------------- which is the base


def test_the_base_is_found_by_what_the_models_say(made: Path, here: Path, cli: Cli, tiny_testbed: Any) -> None:
    copied(made, here, "causal", "causal-tuned", "causal-other")

    def base_of(*words: Any) -> str:
        answer = cli("init", "p", *words, "--overwrite", "--json", "--quiet")
        assert answer.code == 0, answer.err
        return str(json.loads(answer.out)["base"])

    says(here / "causal-other", _name_or_path="./causal")
    assert base_of("causal-tuned", "causal-other", "causal") == "causal"
    # The one that is not given is opened by the name that the others have for it.
    says(here / "causal-tuned", _name_or_path="causal")
    says(here / "causal-other", _name_or_path="causal")
    assert base_of("causal-tuned", "causal-other") == "causal"
    # A copy of what they were made from elsewhere, which says of itself where it came from.
    for name in ("causal-tuned", "causal-other", "causal"):
        says(here / name, _name_or_path="org/causal")
    assert base_of("causal-tuned", "causal-other", "causal") == "causal"
    # What is no model says nothing.
    for name in ("causal-tuned", "causal-other", "causal"):
        says(here / name, _name_or_path=".")
    (here / "causal-tuned" / "README.md").write_text("---\nbase_model: causal\n---\n# A model\n")
    assert base_of("causal", "causal-tuned") == "causal"
    (here / "causal-tuned" / "README.md").unlink()
    cli("skill", "extract", "causal-tuned", "--base", "causal", "--out", "one.safetensors", "--quiet")
    assert base_of("one.safetensors") == "causal"
    assert base_of("causal+one.safetensors", "causal-other") == "causal"
    lora = tiny_testbed.lora
    assert Path(base_of(lora["sort"], lora["upper"])).resolve() == tiny_testbed.base.resolve()


WRONG: dict[str, tuple[list[str], str]] = {
    "one alone": (["causal"], "is the only model"),
    "twice": (["causal", "./causal"], "./causal: named twice"),
    "no base known": (["causal", "causal-tuned"], "is the base is not known. Name the base with --base MODEL"),
    "another architecture": (["causal-tuned", "gpt", "--base", "causal"], "causal, causal-tuned and gpt: causal is a "
                             "LlamaForCausalLM and gpt a GPT2LMHeadModel"),
    "another width": (["wide", "causal-tuned", "--base", "causal"], "hidden_size is 16 in causal and 32 in wide"),
    "another kind": (["bert", "causal-tuned", "--base", "causal"], "causal is a LlamaForCausalLM and bert a BertFor"),
    "of another base": (["foreign", "--base", "large"], "foreign was not fine-tuned from large"),
    "nothing there": (["causal", "nowhere"], "nowhere: no such model"),
    "no such base": (["causal-tuned", "--base", "nowhere"], "nowhere: the base cannot be opened"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(made: Path, here: Path, cli: Cli, name: str) -> None:
    words, said = WRONG[name]
    for word in words:
        if (made / word).is_dir() and not (here / word).exists():
            (here / word).symlink_to(made / word)
    if not (here / "causal").exists():
        (here / "causal").symlink_to(made / "causal")
    before = sorted(path.name for path in here.iterdir())
    answer = cli("init", "project", *words, "--quiet")
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert answer.err.startswith("error: ")
    assert said in answer.err
    assert sorted(path.name for path in here.iterdir()) == before


def test_an_adapter_that_says_nothing_needs_a_base(here: Path, cli: Cli, tiny_testbed: Any) -> None:
    shutil.copytree(tiny_testbed.lora["sort"], here / "lora")
    config = here / "lora" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": None}))
    refused = cli("init", "project", "lora", "--quiet")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--base MODEL" in refused.err
    assert cli("init", "project", "lora", "--base", tiny_testbed.base, "--quiet").code == 0


def test_a_folder_that_is_there_is_left_alone(made: Path, here: Path, cli: Cli) -> None:
    copied(made, here, "causal", "causal-tuned")
    (here / "project").mkdir()
    (here / "project" / "mine").write_text("mine")
    call = ("init", "project", "causal-tuned", "--base", "causal", "--quiet")
    refused = cli(*call)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert (here / "project" / "mine").read_text() == "mine"
    assert cli(*call, "--overwrite").code == 0
    assert not (here / "project" / "mine").exists()


# ---------------------------------------------------------------------- names

_NAME = st.text("ab-. +@", min_size=1, max_size=6).filter(lambda name: name.strip("./ ") != "")


@given(st.lists(st.lists(_NAME, min_size=1, max_size=3).map("/".join), min_size=1, max_size=5, unique=True))
def test_short_names_tell_models_apart(names: list[str]) -> None:
    found = _short_names(names)
    assert len(set(found)) == len(names)
    assert not any(set(name) & set("/+@") for name in found)


def test_a_name_is_placed_part_by_part(here: Path) -> None:
    for name in ("base", "lora", "a+b"):
        (here / name).mkdir()
    out = here / "x" / "project"
    assert placed("base+lora", out) == "../../base+../../lora"
    assert placed("a+b", out) == "../../a+b"
    (here / "deep" / "er").mkdir(parents=True)
    (here / "link").symlink_to(here / "deep" / "er")
    for folder in (out, here / "link" / "project"):
        folder.mkdir(parents=True)
        assert (folder / placed("base", folder)).samefile("base")
    assert placed("org/name@v2", out) == "org/name@v2"
    assert placed(f"{here}/base+lora", out) == f"{here}/base+../../lora"
    assert placed("hf://org/name+lora", out) == "hf://org/name+../../lora"


def test_a_model_in_pytorchs_files_needs_to_be_allowed(tmp_path: Path, cli: Cli) -> None:
    for name in ("base", "tuned"):
        folder = write_model(tmp_path / name)
        tensors = load_file(folder / "model.safetensors")
        if name == "tuned":
            tensors = {key: value + 0.01 for key, value in tensors.items()}
        torch.save(tensors, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    refused = cli("init", tmp_path / "project", tmp_path / "tuned", "--base", tmp_path / "base")
    assert refused.code == 2
    assert "--allow-pickle" in refused.err
    assert not (tmp_path / "project").exists()
    answer = cli("init", tmp_path / "project", tmp_path / "tuned", "--base", tmp_path / "base", "--allow-pickle")
    assert answer.code == 0, answer.err
    assert (tmp_path / "project" / "recipe.yaml").is_file()


def card(folder: Path, front: str) -> Path:
    folder.mkdir()
    (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n")
    return folder


@pytest.mark.slow
def test_a_card_is_read_in_bounded_work(tmp_path: Path) -> None:
    assert origins_of(card(tmp_path / "plain", "base_model: org/base\ntags: [a]")) == ("org/base",)
    bomb = ["base_model: org/base", "a0: &a0 {k: v}"]
    # Each level holds the one before it nine times: 9^40 values once the merge keys are written out.
    bomb += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], k{n}: v}}" for n in range(1, 41)]
    for number, front in enumerate(("\n".join(bomb), "[" * 100_000, "a: &a [*a]", "a: !!python/object:os.system {}")):
        assert origins_of(card(tmp_path / str(number), front)) == ()
    pipes = tmp_path / "pipes"
    pipes.mkdir()
    for name in ("README.md", "adapter_config.json"):
        os.mkfifo(pipes / name)
    assert origins_of(pipes) == ()


def test_homes_of_nobody_and_names_beyond_utf8_are_told_in_a_line(tmp_path: Path, cli: Callable[..., Any]) -> None:
    nobody = "~nosuchuser/x"
    assert not family._can_be_opened(nobody)
    assert family._same(nobody, nobody)
    assert not family._same("x" * 5_000, nobody)
    for name in (nobody, "x" * 5_000):
        assert resolve_model(name, tmp_path) == name
    strange = str(tmp_path / "a\udcff")
    for command in (["inspect", nobody], ["init", tmp_path / "p", nobody, "b"], ["init", tmp_path / "p", strange, "b"]):
        answer = cli(*command)
        assert answer.code == 2
        assert answer.err.splitlines()[-1].startswith("error: ")
    assert "its name is not UTF-8" in answer.err
    assert cli("init", tmp_path / "p", "a", "b", "--base", strange).code == 2
