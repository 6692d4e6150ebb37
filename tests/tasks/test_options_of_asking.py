"""The options that every command which asks models has: each does what it says, in every one of these commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import write_model

from genepool.tasks import Decoding, LanguageModel, Ledger, evaluate, load_tasks
from genepool.tasks.decoding import generate
from genepool.weights import open_weights

Cli = Callable[..., Any]

ASKING = [
    ["evaluate", "one", "two"],
    ["compare", "one", "two"],
    ["profile", "one"],
    ["measure", "transfer", "one", "two"],
    ["measure", "knowledge", "one", "two"],
    ["measure", "mix", "one"],
    ["measure", "consistency", "one"],
    ["measure", "continual", "one", "two"],
    ["measure", "jump", "one", "two", "three"],
    ["measure", "passes", "one", "--draws", "3"],
]
SAMPLING = [
    ["compare", "one", "two"],
    ["profile", "one"],
    ["measure", "transfer", "one", "two"],
    ["measure", "knowledge", "one", "two"],
    ["measure", "mix", "one"],
    ["measure", "consistency", "one"],
    ["measure", "jump", "one", "two", "three"],
]
# The same tasks, made by code.
CODED = "from genepool.tasks import load_tasks\nplain, polite = load_tasks('tasks')\n"
KNOWN = ["--ledger", "known.sqlite", "--json"]
# What `exact_match` is, by somebody else.
OWN_METRIC = """
from genepool.tasks.metrics import metric

@metric("1")
def own_match(output, example, strip):
    return float(output.strip() in [answer.strip() for answer in example.answers])
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models; two tasks, each example of which either the first or the second solves; a ledger of all of it.

    Beside `tasks`: `coded.py`, which makes them; `turned`, whose test split is the valid one of `tasks`; and `short`,
    which ends after 3 examples; and the folder `pickles` with the same models as PyTorch's .bin files.
    """
    folder = tmp_path_factory.mktemp("asked")
    names = ("one", "two", "three")
    for seed, name in enumerate(names):
        write_model(folder / name, seed=seed)
    models = [LanguageModel.load(open_weights(folder / name)) for name in names]
    for task, lead, every in (("plain", "", 2), ("polite", "h", 4)):
        rows = _rows(models, lead, every)
        for place, splits in {
            "tasks": {"test": rows[:16], "valid": rows[16:26]},
            "turned": {"test": rows[16:26]},
            "short": {"test": rows[:3]},
        }.items():
            (folder / place / task).mkdir(parents=True)
            (folder / place / task / "task.yaml").write_text("max_new_tokens: 2\n")
            for split, lines in splits.items():
                (folder / place / task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with Ledger(folder / "known.sqlite") as ledger:
        for split in ("test", "valid"):
            evaluate([folder / name for name in names], load_tasks(folder / "tasks"), split=split, ledger=ledger)
    for name in names:
        shutil.copytree(folder / name, folder / "pickles" / name)
        file = folder / "pickles" / name / "model.safetensors"
        torch.save(load_file(file), file.with_name("pytorch_model.bin"))
        file.unlink()
    shutil.copytree(folder / "tasks", folder / "pickles" / "tasks")
    (folder / "coded.py").write_text(CODED)
    shutil.copytree(folder / "tasks", folder / "judged")
    for settings in folder.glob("judged/*/task.yaml"):
        settings.write_text("metric: own_match\nmax_new_tokens: 2\n")
    (folder / "own_match.py").write_text(OWN_METRIC)
    return folder


def _rows(models: list[LanguageModel], lead: str, every: int) -> list[dict[str, Any]]:
    """Examples of which the first model knows one in `every`, and the second the rest."""
    prompts = [f"{lead}{a}{b}=" for a in "abcdefgh" for b in "01234"]
    written = ([one.text for one in generate(model, prompts, prompts, Decoding(2), 64)] for model in models[:2])
    told = [(prompt, (one, two)) for prompt, one, two in zip(prompts, *written, strict=True)
            if one.strip() and two.strip() and one.strip() != two.strip()]  # fmt: skip
    assert len(told) >= 26
    return [{"id": str(i), "prompt": prompt, "answer": said[i % every > 0], "tags": [["a"], ["b"], ["a", "b"]][i % 3]}
            for i, (prompt, said) in enumerate(told)]  # fmt: skip


@pytest.fixture
def world(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test stands in the folder of the models."""
    monkeypatch.chdir(made)
    return made


def _told(answer: Any) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    (line,) = answer.out.splitlines()
    told: dict[str, Any] = json.loads(line)
    assert told["schema"] == 1
    return told


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("call", ASKING, ids=" ".join)
def test_the_split_that_is_named_is_asked(cli: Cli, call: list[str]) -> None:
    told = cli(*call, "--tasks", "tasks", "--split", "valid", *KNOWN)
    there = cli(*call, "--tasks", "turned", *KNOWN)
    assert _told(there) != _told(cli(*call, "--tasks", "tasks", *KNOWN))
    assert told.out.replace('"split": "valid"', '"split": "test"') == there.out
    refused = cli(*call, "--tasks", "tasks", "--split", "vlaid", "--quiet", *KNOWN)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "Did you mean 'valid'?" in refused.err


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("call", ASKING, ids=" ".join)
def test_a_limit_leaves_the_first_examples(cli: Cli, call: list[str]) -> None:
    told = _told(cli(*call, "--tasks", "tasks", "--limit", 3, *KNOWN))
    assert told == _told(cli(*call, "--tasks", "short", *KNOWN))
    assert told != _told(cli(*call, "--tasks", "tasks", *KNOWN))


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("call", ASKING, ids=" ".join)
def test_what_the_named_ledger_holds_is_not_asked_again(
    cli: Cli, call: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    _watch_batches(monkeypatch, sizes)
    told = _told(cli(*call, "--tasks", "tasks", "--limit", 2, "--ledger", tmp_path / "new.sqlite", "--json"))
    assert sizes
    assert (tmp_path / "new.sqlite").is_file()
    assert not (tmp_path / "ledger.sqlite").exists(), "the ledger of the environment"
    sizes.clear()
    again = _told(cli(*call, "--tasks", "tasks", "--limit", 2, "--ledger", tmp_path / "new.sqlite", "--json"))
    assert not sizes
    if call[0] != "evaluate":
        assert again == told


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("call", SAMPLING, ids=" ".join)
def test_a_seed_draws_the_same_bootstrap_and_another_seed_another(cli: Cli, call: list[str]) -> None:
    zero, one, same = (_told(cli(*call, "--tasks", "tasks", "--seed", seed, *KNOWN)) for seed in (0, 1, 1))
    assert one == same != zero
    assert zero == _told(cli(*call, "--tasks", "tasks", *KNOWN))


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("call", ASKING, ids=" ".join)
def test_pickles_are_opened_when_that_is_said(
    cli: Cli, call: list[str], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _told(cli(*call, "--tasks", "tasks", *KNOWN))
    monkeypatch.chdir(world / "pickles")
    refused = cli(*call, "--tasks", "tasks", "--ledger", "../known.sqlite", "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "--allow-pickle" in refused.err
    asked = cli(*call, "--tasks", "tasks", "--allow-pickle", "--ledger", "../known.sqlite", "--json")
    assert _told(asked) == told


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("call", ASKING, ids=" ".join)
def test_code_is_run_when_that_is_said(cli: Cli, call: list[str]) -> None:
    refused = cli(*call, "--tasks", "coded.py", "--quiet", *KNOWN)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "pass --trust-tasks coded.py" in refused.err
    told = _told(cli(*call, "--tasks", "coded.py", "--trust-tasks", "coded.py", *KNOWN))
    assert told == _told(cli(*call, "--tasks", "tasks", *KNOWN))


@pytest.mark.usefixtures("world", "own_registry")
@pytest.mark.parametrize("call", ASKING, ids=" ".join)
def test_a_metric_of_ones_own_judges_when_its_file_is_named(cli: Cli, call: list[str], tmp_path: Path) -> None:
    refused = cli(*call, "--tasks", "judged", "--quiet", *KNOWN)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "unknown metric 'own_match'" in refused.err
    assert "name it with --plugin" in refused.err
    more = ("--limit", 6, "--json", "--ledger")
    told = cli(*call, "--tasks", "judged", "--plugin", "own_match.py", *more, tmp_path / "own.sqlite")
    there = cli(*call, "--tasks", "tasks", *more, tmp_path / "theirs.sqlite")
    if call[1] == "jump":
        # A jump is told by the likelihoods of answers, which are asked where equality decides.
        assert (told.code, there.code) == (2, 0), told.err
    else:
        assert _told(told) == _told(there)


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("call", ASKING, ids=" ".join)
def test_a_device_that_is_not_there_is_one_line(cli: Cli, call: list[str], tmp_path: Path) -> None:
    refused = cli(*call, "--tasks", "tasks", "--device", "abacus", "--ledger", tmp_path / "new.sqlite", "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert refused.err.startswith("error: --device: got 'abacus', which cannot be used here")


@pytest.mark.usefixtures("world", "loud")
@pytest.mark.parametrize("call", ASKING, ids=" ".join)
def test_quiet_is_without_progress(cli: Cli, call: list[str]) -> None:
    assert cli(*call, "--tasks", "tasks", *KNOWN).err
    assert cli(*call, "--tasks", "tasks", "--quiet", *KNOWN).err == ""
    shown = cli(*call, "--tasks", "tasks", "--quiet", "--ledger", "known.sqlite")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out


def _watch_batches(monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    """Notes how many texts every model that is loaded from now on reads at once."""
    load = LanguageModel.load

    def watched(*arguments: Any, **more: Any) -> LanguageModel:
        model = load(*arguments, **more)
        model.model.register_forward_pre_hook(
            lambda _, given, named: sizes.append(len(named.get("input_ids", *given[:1]))), with_kwargs=True
        )
        return model

    monkeypatch.setattr(LanguageModel, "load", watched)


@pytest.mark.slow
@pytest.mark.usefixtures("world")
def test_no_batch_is_larger_than_said(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    _watch_batches(monkeypatch, sizes)
    for i, call in enumerate(
        (["evaluate", "one"], ["compare", "one", "two"], ["soup", "one", "two", "--out", tmp_path / "soup"])
    ):
        assert cli(*call, "--tasks", "tasks", "--batch-size", 3, "--ledger", tmp_path / f"{i}.sqlite").code == 0
        assert max(sizes) == 3
        sizes.clear()


# ---------------------------------------------------------------------- what only some of them have


def _outputs(cli: Cli, ledger: Path) -> list[str | None]:
    """What a ledger holds of what models wrote."""
    lines = ledger.with_suffix(".jsonl")
    assert cli("outcomes", "export", lines, "--ledger", ledger, "--overwrite").code == 0
    return [json.loads(line)["output"] for line in lines.read_text().splitlines()]


@pytest.mark.usefixtures("world")
def test_evaluate_keeps_what_is_written_when_that_is_said(cli: Cli, tmp_path: Path) -> None:
    call = ("evaluate", "one", "--tasks", "tasks", "--task", "plain")
    means = []
    for i, (more, complete) in enumerate((([], False), (["--outputs"], True), (["--outputs", "--no-outputs"], False))):
        ledger = tmp_path / f"{i}.sqlite"
        means.append(_told(cli(*call, *more, "--ledger", ledger, "--json"))["results"][0]["mean"])
        assert (None not in _outputs(cli, ledger)) == complete
    assert means == [0.5] * 3


@pytest.mark.usefixtures("world")
def test_compare_tells_mistakes_apart_by_what_is_written(cli: Cli, tmp_path: Path) -> None:
    call = ("compare", "one", "two", "--tasks", "tasks")
    for i, (more, apart) in enumerate((([], True), (["--no-outputs"], False), (["--no-outputs", "--outputs"], True))):
        (found,) = _told(cli(*call, *more, "--ledger", tmp_path / f"{i}.sqlite", "--json"))["comparisons"]
        for task in found["tasks"]:
            assert (task["compatibility"]["other_mistakes"] is not None) == apart


@pytest.mark.usefixtures("world")
def test_compare_keeps_to_the_tasks_that_are_named(cli: Cli) -> None:
    for named in (["polite"], ["polite", "plain"]):
        more = [word for name in named for word in ("--task", name)]
        (found,) = _told(cli("compare", "one", "two", "--tasks", "tasks", *more, *KNOWN))["comparisons"]
        assert sorted(one["task"] for one in found["tasks"]) == sorted(named)
    assert "Did you mean 'plain'?" in cli("compare", "one", "two", "--tasks", "tasks", "--task", "plane", *KNOWN).err


@pytest.fixture
def drawn(world: Path, tmp_path: Path) -> Path:
    """A task whose answers are drawn."""
    shutil.copytree(world / "tasks" / "plain", tmp_path / "drawn")
    (tmp_path / "drawn" / "task.yaml").write_text("max_new_tokens: 2\ntemperature: 1.0\n")
    return tmp_path / "drawn"


def test_a_seed_draws_the_same_answers_and_another_seed_others(cli: Cli, drawn: Path, tmp_path: Path) -> None:
    written = []
    for i, seed in enumerate((1, 1, 2)):
        ledger = tmp_path / f"{i}.sqlite"
        assert cli("evaluate", "one", "--tasks", drawn, "--seed", seed, "--ledger", ledger).code == 0
        written.append(_outputs(cli, ledger))
    assert written[0] == written[1] != written[2]


def test_a_mix_is_of_the_tags_that_are_named(cli: Cli, world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "tasks" / "plain", tmp_path / "plain")
    file = tmp_path / "plain" / "test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for i, row in enumerate(rows):
        row["tags"].append(("long", "short")[i % 2])
    file.write_text("\n".join(map(json.dumps, rows)))
    call = ("measure", "mix", "one", *KNOWN)
    (expected,) = _told(cli(*call, "--tasks", "tasks/plain"))["models"]
    (named,) = _told(cli(*call, "--tasks", tmp_path / "plain", "--among", "a", "--among", "b"))["models"]
    (every,) = _told(cli(*call, "--tasks", tmp_path / "plain"))["models"]
    assert named == expected != every


@pytest.mark.usefixtures("world")
def test_sampling_goes_on_until_so_many_answers_pass(cli: Cli) -> None:
    call = ("measure", "passes", "two", "--tasks", "tasks", "--task", "polite", "--draws", 5, *KNOWN)
    for until in (1, 3):
        rates = _told(cli(*call, "--until", until))["tasks"][0]["examples"]
        assert max(rate["passes"] for rate in rates) == until
        assert all(rate["passes"] == until or rate["draws"] == 5 for rate in rates)
    assert cli(*call, "--until", 0).code == 2


@pytest.mark.usefixtures("world")
def test_a_page_of_profiles_is_replaced_when_that_is_said(cli: Cli, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    call = ("profile", "one", "--tasks", "tasks", "--ledger", "known.sqlite", "--out", page, "--quiet")
    refused = cli(*call)
    assert (refused.code, page.read_text()) == (2, "old")
    assert cli(*call, "--overwrite").code == 0
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.usefixtures("world")
def test_generate_loads_pickles_when_that_is_said_and_computes_where_it_is_said(
    cli: Cli, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ("generate", "one", "--prompt", "ab=", "--max-new-tokens", 4, "--quiet")
    written = cli(*call).out
    there = cli(*call, "--device", "abacus")
    assert (there.code, there.out, there.err.count("\n")) == (2, "", 1)
    assert "got 'abacus', which cannot be used here" in there.err
    monkeypatch.chdir(world / "pickles")
    assert "--allow-pickle" in cli(*call).err
    assert cli(*call, "--allow-pickle").out == written != ""


# ---------------------------------------------------------------------- soup


def _soup(cli: Cli, tmp_path: Path, *options: Any) -> dict[str, Any]:
    return _told(cli("soup", "one", "two", "--out", tmp_path / "soup", "--overwrite", *options, "--json"))


def _steps(told: dict[str, Any]) -> Any:
    return told["steps"], told["score"], told["models"]


@pytest.mark.slow
@pytest.mark.usefixtures("world")
def test_a_soup_is_chosen_on_the_split_tasks_and_examples_that_are_named(cli: Cli, tmp_path: Path) -> None:
    by_default = _soup(cli, tmp_path, "--tasks", "tasks")
    on_valid = _soup(cli, tmp_path, "--tasks", "tasks", "--split", "valid")
    on_test = _soup(cli, tmp_path, "--tasks", "tasks", "--split", "test")
    assert (by_default["split"], on_test["split"]) == ("valid", "test")
    assert _steps(by_default) == _steps(on_valid)
    assert _steps(on_valid) == _steps(_soup(cli, tmp_path, "--tasks", "turned", "--split", "test"))
    few = _soup(cli, tmp_path, "--tasks", "tasks", "--split", "test", "--limit", 3)
    assert _steps(few) == _steps(_soup(cli, tmp_path, "--tasks", "short", "--split", "test"))
    polite = _soup(cli, tmp_path, "--tasks", "tasks", "--split", "test", "--task", "polite")
    assert _steps(polite) == _steps(_soup(cli, tmp_path, "--tasks", "tasks/polite", "--split", "test"))
    assert len({json.dumps(_steps(told)) for told in (on_valid, on_test, few, polite)}) == 4


@pytest.mark.usefixtures("world")
def test_a_soup_reads_the_named_ledger_and_takes_the_bases_config_along(cli: Cli, tmp_path: Path) -> None:
    ledger = tmp_path / "soup.sqlite"
    told = _soup(cli, tmp_path, "--tasks", "tasks", "--ledger", ledger)
    assert told["evaluated"] > 0
    assert not (tmp_path / "ledger.sqlite").exists(), "the ledger of the environment"
    assert _soup(cli, tmp_path, "--tasks", "tasks", "--ledger", ledger) == {**told, "evaluated": 0}
    write_model(tmp_path / "base", seed=3)
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "its_own": "yes"}))
    written = tmp_path / "soup" / "config.json"
    assert "its_own" not in json.loads(written.read_text())
    _soup(cli, tmp_path, "--tasks", "tasks", "--ledger", ledger, "--base", tmp_path / "base")
    assert json.loads(written.read_text())["its_own"] == "yes"


@pytest.mark.slow
def test_a_soup_draws_by_its_seed_and_computes_where_it_is_said(cli: Cli, drawn: Path, tmp_path: Path) -> None:
    one, same, other = (
        _soup(cli, tmp_path, "--tasks", drawn, "--seed", seed, "--ledger", tmp_path / f"{i}.sqlite")
        for i, seed in enumerate((1, 1, 2))
    )
    assert _steps(one) == _steps(same) != _steps(other)
    refused = cli("soup", "one", "--tasks", drawn, "--out", tmp_path / "new", "--device", "abacus", "--quiet")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "got 'abacus', which cannot be used here" in refused.err
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("world", "own_registry")
def test_a_soup_is_judged_by_a_metric_of_ones_own(cli: Cli, tmp_path: Path) -> None:
    refused = cli("soup", "one", "two", "--tasks", "judged", "--out", tmp_path / "new", "--quiet")
    assert (refused.code, "name it with --plugin" in refused.err) == (2, True)
    own = _soup(cli, tmp_path, "--tasks", "judged", "--plugin", "own_match.py")
    assert _steps(own) == _steps(_soup(cli, tmp_path, "--tasks", "tasks"))


def test_a_soup_opens_pickles_and_runs_code_when_that_is_said(
    cli: Cli, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _soup(cli, tmp_path, "--tasks", "tasks")
    coded = _soup(cli, tmp_path, "--tasks", "coded.py", "--trust-tasks", "coded.py")
    assert _steps(coded) == _steps(told)
    monkeypatch.chdir(world / "pickles")
    for tasks, said in (("tasks", "--allow-pickle"), ("../coded.py", "--trust-tasks ../coded.py")):
        refused = cli("soup", "one", "two", "--tasks", tasks, "--out", tmp_path / "p", "--quiet")
        assert (refused.code, refused.err.count("\n"), said in refused.err) == (2, 1, True)
    assert _steps(_soup(cli, tmp_path, "--tasks", "tasks", "--allow-pickle")) == _steps(told)
