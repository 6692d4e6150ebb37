"""`genepool measure`: the numbers of the library, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genepool import measure
from genepool.tasks import Ledger, evaluate, load_tasks


@pytest.fixture
def asked(tiny_testbed: Any, tmp_path: Path) -> list[Any]:
    """Options every command gets: two tasks, few examples, a ledger of its own."""
    return [
        *("--tasks", tiny_testbed.tasks, "--task", "reverse", "--task", "upper", "--limit", 20),
        *("--ledger", tmp_path / "outcomes.sqlite"),
    ]


def outcomes(bed: Any, models: list[Any], tmp_path: Path) -> Any:
    with Ledger(tmp_path / "outcomes.sqlite") as ledger:
        tasks = load_tasks(bed.tasks, ["reverse", "upper"])
        return evaluate([str(model) for model in models], tasks, ledger=ledger, limit=20)


def test_transfer(cli: Callable[..., Any], tiny_testbed: Any, asked: list[Any], tmp_path: Path) -> None:
    models = [tiny_testbed.base, tiny_testbed.full["reverse"], tiny_testbed.full["upper"]]
    own = [f"{tiny_testbed.full[skill]}={skill}" for skill in ("reverse", "upper")]
    trained = ["--trained", own[0], "--trained", own[1]]
    answer = cli("measure", "transfer", *models, *asked, *trained, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    table = outcomes(tiny_testbed, models, tmp_path)
    assert table.evaluated == 0
    expected = measure.transfer_matrix(table, table.models[0], dict(one.rsplit("=", 1) for one in own))
    assert found == {"schema": 1, **json.loads(json.dumps(expected.to_dict()))}
    assert found["rows"][0]["trained"] == "reverse"
    shown = cli("measure", "transfer", *models, *asked, *trained)
    assert "° the task it was trained on" in shown.err
    assert "+0." in shown.out or "+1." in shown.out


def test_knowledge(cli: Callable[..., Any], tiny_testbed: Any, asked: list[Any]) -> None:
    models = [tiny_testbed.full["reverse"], tiny_testbed.full["upper"]]
    found = json.loads(cli("measure", "knowledge", *models, *asked, "--json").out)["pairs"]
    assert len(found) == 4
    assert found[0]["rho_pos"] == found[1]["rho_neg"]
    shown = cli("measure", "knowledge", *models, *asked).out
    assert "teacher" in shown
    assert shown.count(str(models[0])) == 2


def test_continual(cli: Callable[..., Any], tiny_testbed: Any, asked: list[Any]) -> None:
    stages = [tiny_testbed.full["reverse"], tiny_testbed.full["upper"]]
    answer = cli("measure", "continual", *stages, *asked, "--untrained", tiny_testbed.base, "--json")
    found = json.loads(answer.out)
    (a, b), (c, d) = found["matrix"]
    assert found["average"] == pytest.approx((c + d) / 2)
    assert found["backward_transfer"] == pytest.approx(c - a)
    assert found["forward_transfer"] == pytest.approx(b - found["untrained"][1])
    assert "forgetting" in cli("measure", "continual", *stages, *asked).out
    refused = cli("measure", "continual", stages[0], *asked)
    assert refused.code == 2
    assert "got 2 tasks, expected 1" in refused.err


def test_mix(cli: Callable[..., Any], tiny_testbed: Any, tmp_path: Path) -> None:
    """Success is counted by tags, whatever the model answers."""
    lines = [
        {"id": f"{i}", "prompt": f"{tags}:ab{i} = ", "answer": "zz", "tags": tags.split("+")}
        for i, tags in enumerate(["a", "a", "b", "b", "a+b", "a+b"])
    ]
    file = tmp_path / "mixed.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    answer = cli("measure", "mix", tiny_testbed.base, "--tasks", file, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    (told,) = found["models"]
    assert set(told["singles"]) == {"a", "b"}
    assert told["combinations"][0]["skills"] == ["a", "b"]
    assert found["weakest_link"]["equal"] == 1
    assert "a + b" in cli("measure", "mix", tiny_testbed.base, "--tasks", file).out


def test_mix_needs_tags(cli: Callable[..., Any], tiny_testbed: Any, asked: list[Any]) -> None:
    answer = cli("measure", "mix", tiny_testbed.base, *asked)
    assert answer.code == 2
    assert "no example has tags" in answer.err


LOG = """block_num,block_type,task_name,exp_num,reward
0,test,a,0,0.2
1,train,b,1,0.5
1,train,b,2,0.9
2,test,a,3,0.4
3,train,a,4,0.8
4,test,a,5,0.9
5,test,a,6,0.7
"""


def test_lifelong(cli: Callable[..., Any], tmp_path: Path) -> None:
    log, expert = tmp_path / "log.csv", tmp_path / "expert.csv"
    log.write_text(LOG)
    expert.write_text("block_num,block_type,task_name,exp_num,reward\n0,train,a,0,1.0\n")
    found = json.loads(cli("measure", "lifelong", log, "--expert", f"a={expert}", "--json").out)
    assert found["forward_ratio"] == pytest.approx(2.0)
    assert found["maintenance"] == pytest.approx(-0.2)
    assert found["relative"] == pytest.approx(0.8)
    shown = cli("measure", "lifelong", log).out
    assert "b → a" in shown
    assert cli("measure", "lifelong", log, "--measure", "score").code == 2
    refused = cli("measure", "lifelong", log, "--expert", "a")
    assert (refused.code, "got 'a', expected NAME=VALUE" in refused.err) == (2, True)


def test_consistency(cli: Callable[..., Any], tiny_testbed: Any, tmp_path: Path) -> None:
    folder = tmp_path / "wordings"
    folder.mkdir()
    for name, end in (("plain", " = "), ("again", " = "), ("other", " : ")):
        lines = [{"id": f"{i}", "prompt": f"reverse:ab{i}{end}", "answer": f"{i}ba"} for i in range(6)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = tiny_testbed.full["reverse"]
    same = json.loads(
        cli("measure", "consistency", model, "--tasks", folder, "--task", "plain", "--task", "again", "--json").out
    )["models"][0]
    assert same["agreement"]["mean"] == same["alike"]["mean"] == 1
    assert same["spread"]["difference"] == 0
    shown = cli("measure", "consistency", model, "--tasks", folder)
    assert shown.code == 0
    assert "spread" in shown.out
    one = cli("measure", "consistency", model, "--tasks", folder, "--task", "plain")
    assert (one.code, "there are fewer than two variations" in one.err) == (2, True)


def test_profile(cli: Callable[..., Any], tiny_testbed: Any, asked: list[Any], tmp_path: Path) -> None:
    model, page, card = tiny_testbed.full["reverse"], tmp_path / "p.html", tmp_path / "p.md"
    answer = cli("profile", model, *asked, "--out", page, "--out", card, "--json")
    assert answer.code == 0, answer.err
    (found,) = json.loads(answer.out)["profiles"]
    table = outcomes(tiny_testbed, [model], tmp_path)
    assert [one["ability"] for one in found.pop("abilities")] == [one["task"] for one in found["tasks"]]
    assert found == json.loads(json.dumps(measure.profile(table, table.models[0]).to_dict()))
    assert found["trust"][0]["calibration"]["n"] == 40
    assert page.read_text().startswith("<!doctype html>")
    assert "| reverse | 20 |" in card.read_text()
    assert "best at" in cli("profile", model, *asked).out.lower()
    refused = cli("profile", model, *asked, "--out", page)
    assert (refused.code, "the file exists" in refused.err) == (2, True)
    assert cli("profile", model, *asked, "--risk", 2).code == 2


@pytest.mark.slow
def test_curve(cli: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "run.csv"
    rows = [f"{n},{0.1 + 2 * n**-0.5}" for n in (10, 30, 100, 300, 1000)]
    file.write_text("step,loss\n" + "\n".join(rows) + "\n")
    names = ("--spent", "step", "--error", "loss")
    found = json.loads(cli("measure", "curve", file, *names, "--at", 10000, "--horizon", 2000, "--json").out)
    assert found["curve"]["a"] == pytest.approx(0.1, abs=1e-3)
    assert found["predictions"][0]["mean"] == pytest.approx(0.12, abs=1e-3)
    assert not found["advice"]["stop"]
    shown = cli("measure", "curve", file, *names, "--horizon", 2000, "--threshold", 0.5)
    assert "stop" in shown.out
    noisy = tmp_path / "noisy.csv"
    noisy.write_text("n,error\n" + "\n".join(f"{n},{0.1 + 2 * n**-0.5 + 0.02 * (n % 7)}" for n in range(10, 20)))
    zero, one, same = (cli("measure", "curve", noisy, "--at", 100, "--seed", s, "--json").out for s in (0, 1, 1))
    assert zero == cli("measure", "curve", noisy, "--at", 100, "--json").out
    assert one == same != zero
    for wrong, said in (
        (("--spent", "stepp", "--error", "loss"), "no 'stepp'. Did you mean 'step'?"),
        ((*names, "--kind", "cubic"), "got 'cubic', expected a known kind"),
        ((*names, "--horizon", 10), "Give a larger horizon"),
    ):
        refused = cli("measure", "curve", file, *wrong)
        assert (refused.code, said in refused.err) == (2, True), refused.err
    file.write_text("step,loss\n1,no\n")
    assert "run.csv:2: got 'no' for loss, expected a number" in cli("measure", "curve", file, *names).err


def test_passes(cli: Callable[..., Any], tiny_testbed: Any, tmp_path: Path) -> None:
    asked = ["--tasks", tiny_testbed.tasks, "--task", "reverse", "--limit", 4, "--ledger", tmp_path / "o.sqlite"]
    model = tiny_testbed.full["reverse"]
    found = json.loads(cli("measure", "passes", model, *asked, "--draws", 4, "--json").out)
    examples = found["tasks"][0]["examples"]
    assert len(examples) == 4
    assert all(2 <= one["draws"] <= 4 for one in examples)
    assert "mean rate" in cli("measure", "passes", model, *asked, "--draws", 4).out
    assert cli("measure", "passes", model, *asked, "--temperature", 0).code == 2
    assert cli("measure", "passes", model, *asked, "--draws", 1).code == 2


@pytest.mark.slow
def test_jump(cli: Callable[..., Any], tiny_testbed: Any, asked: list[Any]) -> None:
    models = [tiny_testbed.base, tiny_testbed.full["upper"], tiny_testbed.full["reverse"]]
    found = json.loads(cli("measure", "jump", *models, *asked, "--json").out)["tasks"]
    assert [one["task"] for one in found] == ["reverse", "upper"]
    assert found[0]["jump"] == [str(model) for model in models[1:]]
    assert "the jump" in cli("measure", "jump", *models, *asked).out
    assert cli("measure", "jump", *models[:2], *asked).code == 2
