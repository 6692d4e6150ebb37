"""`genepool evaluate` and `genepool generate`, end to end, as the contract has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genepool.measure import wilson
from genepool.tasks import LanguageModel, Ledger, Outcome, load_tasks
from genepool.weights import open_weights


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    for name, pairs in {"add": [("1+1=", "2"), ("2+1=", "3")], "copy": [("a:", "a"), ("b:", "b"), ("c:", "c")]}.items():
        folder = tmp_path / "tasks" / name
        folder.mkdir(parents=True)
        lines = [json.dumps({"id": str(i), "prompt": p, "answer": a}) for i, (p, a) in enumerate(pairs)]
        (folder / "test.jsonl").write_text("\n".join(lines))
    return tmp_path / "tasks"


def test_evaluate_answers_as_the_contract_says_and_asks_once(
    tiny_model: Callable[..., Path], tasks: Path, tmp_path: Path, cli: Callable[..., Any], monkeypatch: Any
) -> None:
    model, ledger = tiny_model(), tmp_path / "mine.sqlite"
    call = ("evaluate", model, "--tasks", tasks, "--ledger", ledger, "--json")
    answer = cli(*call)
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert answer.out.count("\n") == 1
    assert set(told) == {"schema", "results", "evaluated"}
    assert (told["schema"], told["evaluated"]) == (1, 5)
    assert [(row["task"], row["n"], row["cached"]) for row in told["results"]] == [("add", 2, 0), ("copy", 3, 0)]
    for row in told["results"]:
        assert set(row) == {"model", "fingerprint", "task", "n", "mean", "lo", "hi", "cached"}
        assert row["model"] == str(model)
        assert row["fingerprint"] == open_weights(model).fingerprint()
        assert (row["mean"], row["lo"], row["hi"]) == tuple(wilson(row["mean"] * row["n"], row["n"]))

    monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: pytest.fail("loaded"))
    again = json.loads(cli(*call).out)
    assert again["evaluated"] == 0
    assert [row["cached"] for row in again["results"]] == [2, 3]
    assert [{**row, "cached": 0} for row in again["results"]] == told["results"]
    table = cli("evaluate", model, "--tasks", tasks, "--ledger", ledger, "--task", "copy", "--limit", "2")
    assert table.code == 0
    assert "copy" in table.out
    assert "add" not in table.out
    assert "0 examples evaluated now" in table.err


def test_evaluate_keeps_to_the_ledger_of_the_environment(
    tiny_model: Callable[..., Path], tasks: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    assert cli("evaluate", tiny_model(), "--tasks", tasks, "--quiet").code == 0
    assert (tmp_path / "ledger.sqlite").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "ad"], "no task 'ad'. Did you mean 'add'?"),
        (["--split", "valid"], "no split 'valid'"),
        (["--device", "abacus"], "got 'abacus', which cannot be used here"),
        (["--limit", "0"], "--limit"),
    ],
)
def test_evaluate_tells_what_is_wrong_in_one_line(
    tiny_model: Callable[..., Path], tasks: Path, cli: Callable[..., Any], arguments: list[str], said: str
) -> None:
    answer = cli("evaluate", tiny_model(), "--tasks", tasks, "--quiet", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert said in answer.err


def test_evaluate_names_a_bad_line(tiny_model: Callable[..., Path], tasks: Path, cli: Callable[..., Any]) -> None:
    with (tasks / "add" / "test.jsonl").open("a") as file:
        file.write('\n{"prompt": "1+2="')
    answer = cli("evaluate", tiny_model(), "--tasks", tasks, "--quiet")
    assert answer.code == 2
    assert answer.err.startswith(f"error: {tasks}/add/test.jsonl:3: this line is not JSON")


def test_generate_writes_what_the_model_says(
    tiny_model: Callable[..., Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("ab=", return_tensors="pt").input_ids
    text = tokenizer.decode(model.generate(ids, max_new_tokens=5, do_sample=False)[0, 3:], skip_special_tokens=True)
    call = ("generate", folder, "--prompt", "ab=", "--max-new-tokens", "5")
    assert cli(*call).out == text + "\n"
    told = json.loads(cli(*call, "--prompt", "1", "--json").out)
    assert told["schema"] == 1
    assert told["fingerprint"] == open_weights(folder).fingerprint()
    assert told["results"][0] == {"prompt": "ab=", "output": text}
    assert cli(*call, "--stop", text[2]).out == text[: text.index(text[2])] + "\n"
    (tmp_path / "p.txt").write_text("ab=")
    assert cli("generate", folder, "--prompt-file", tmp_path / "p.txt", "--max-new-tokens", "5").out == text + "\n"
    drawn = [cli(*call, "--temperature", "3", "--seed", seed).out for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    # Asked twice, drawn twice.
    twice = json.loads(cli(*call, "--prompt", "ab=", "--temperature", "3", "--json").out)["results"]
    assert twice[0]["output"] != twice[1]["output"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no prompt is given"),
        (["--prompt", "a", "--stop", ""], "--stop"),
        (["--prompt", "a", "--top-p", "0"], "--top-p"),
        (["--prompt", "a", "--chat"], "no chat template"),
        (["--prompt", "a" * 50], "does not fit the context of 40"),
        (["--prompt-file", "/no/such"], "/no/such: no such file"),
        (["--prompt", "\udcff"], "--prompt: is not text"),
        (["--prompt", "a", "--stop", "\udcff"], "--stop: is not text"),
    ],
)
def test_generate_tells_what_is_wrong_in_one_line(
    tiny_model: Callable[..., Path], cli: Callable[..., Any], arguments: list[str], said: str
) -> None:
    answer = cli("generate", tiny_model(), "--quiet", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert answer.err.count("\n") == 1


def test_a_temperature_near_zero_takes_the_likeliest_token(
    tiny_model: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    """Divided by a number that small, every logit is infinite."""
    model = tiny_model()
    wrote = {cli("generate", model, "--prompt", "a", "--temperature", t).out for t in ("0", "1e-320", "1e-30")}
    assert len(wrote) == 1


def test_a_race_drops_who_is_surely_behind_and_says_so(
    tmp_path: Path, cli: Callable[..., Any], tiny_model: Callable[..., Path], monkeypatch: Any
) -> None:
    good, *bad = (tiny_model(name, seed=i) for i, name in enumerate(("good", "bad", "worse")))
    folder = tmp_path / "tasks" / "t"
    folder.mkdir(parents=True)
    rows = [{"id": str(i), "prompt": f"{i}:", "answer": "a" if i % 5 else "b"} for i in range(200)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    # Outcomes on record stand in for answers: the good one is right on four fifths, the others never.
    (task,) = load_tasks(tmp_path / "tasks")
    with Ledger(tmp_path / "l.sqlite") as ledger:
        for model in (good, *bad):
            said = [
                (e.key, e.id, Outcome(float(model == good and e.answer == "a"), "a")) for e in task.examples("test")
            ]
            ledger.record(open_weights(model).fingerprint(), "recorded", "t", task.asking, said)
    monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: pytest.fail("loaded"))
    call = ("evaluate", good, *bad, "--tasks", tmp_path / "tasks", "--ledger", tmp_path / "l.sqlite", "--race")
    told = json.loads(cli(*call, "--json").out)
    assert [(row["model"], row["n"], row["mean"]) for row in told["results"]] == [(str(good), 200, 0.8)]
    assert {one["name"] for one in told["dropped"]} == set(map(str, bad))
    assert all(one["examples"] < 200 and one["mean"] == 0 for one in told["dropped"])
    assert told["saved"] == sum(200 - one["examples"] for one in told["dropped"])
    assert "dropped out after" in cli(*call).err
    assert cli(*call, "--race-error", "2").code == 2
