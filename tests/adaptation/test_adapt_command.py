"""`genepool adapt` as it is typed: what it writes, that kills change nothing, and what it refuses."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_streams import rows, write_model, write_stream

from genepool.adaptation import Adaptation, all_adapters
from genepool.adaptation.augmentation import augmented, told_cost
from genepool.adaptation.results import auroc
from genepool.adaptation.stream_record import StreamRecord
from genepool.skills import Skill

Cli = Callable[..., Any]


def _rows_of(out: Path) -> list[Any]:
    with sqlite3.connect(out / "stream.sqlite") as database:
        return [
            database.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in ("examples", "batches", "clean")
        ]


def test_a_run_writes_its_rows_a_skill_and_a_page(cli: Cli, base: Path, stream: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    answer = cli("adapt", base, "--stream", stream, "--adapter", "tent", "--out", out, "--json", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    told = json.loads(answer.out)
    assert told["schema"] == 1
    assert set(told["difference"]) == {"mean", "lo", "hi"}
    assert told["verdict"] in ("better", "no difference", "worse than doing nothing")
    assert told["adapted"] - told["frozen"] == pytest.approx(told["difference"]["mean"])
    assert (told["resets"], told["clean_before"], told["clean_after"]) == (0, None, None)
    assert [one["round"] for one in told["history"]] == [1, 2]
    assert {path.name for path in out.iterdir()} == {
        "skill.safetensors", "stream.sqlite", "adapt.json", "report.html", "state",
    }  # fmt: skip
    examples, batches, _ = _rows_of(out)
    assert (len(examples), len(batches)) == (96, 12)
    assert all(row[-2] == 1 and row[-1] == 1.0 for row in examples)
    skill = Skill.open(out / "skill.safetensors", base=base)
    lineage = skill.change.header.training
    assert lineage["stream"] == {"name": "stream", "digest": told["stream"]["digest"]}
    assert (lineage["adapter"], lineage["batches"], lineage["options"]) == ("tent", 12, {"rate": 0.001})
    assert "tent on stream" in (out / "report.html").read_text()


def test_a_finished_run_changes_nothing_and_another_is_refused(
    cli: Cli, base: Path, stream: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    typed = ["adapt", base, "--stream", stream, "--adapter", "tent", "--out", out, "--rounds", "1"]
    assert cli(*typed).code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    answer = cli(*typed, "--json")
    assert answer.code == 0
    assert json.loads(answer.out)["finished_before"] is True
    assert {path: path.read_bytes() for path in before} == before
    for more, key in ((["--seed", "1"], "seed was 0"), (["--set", "rate=0.1"], "options.rate")):
        answer = cli(*typed, *more)
        assert answer.code == 2
        assert "the run changed since it began" in answer.err
        assert key in answer.err
    assert cli(*typed, "--seed", "1", "--overwrite").code == 0


class Killed(BaseException):
    """Stands for a kill: no handler of ours catches it."""


@pytest.mark.parametrize("at", [0, 3, 5, 11])
@pytest.mark.parametrize("when", ["issue", "learned"])
def test_a_run_that_was_killed_goes_on_to_the_same_rows(
    cli: Cli, base: Path, stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, when: str
) -> None:
    from genepool.adaptation import runner

    monkeypatch.setattr(runner, "EVERY", 4)
    typed = ["adapt", base, "--stream", stream, "--adapter", "eata", "--set", "margin=1.0", "--clean", stream, "--out"]
    assert cli(*typed, tmp_path / "whole").code == 0
    write = getattr(StreamRecord, when)

    def killing(self: StreamRecord, step: Any, *others: Any) -> None:
        write(self, step, *others)
        if step.number == at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(StreamRecord, when, killing)
        with pytest.raises(Killed):
            cli(*typed, tmp_path / "cut")
    assert not (tmp_path / "cut" / "adapt.json").exists()
    assert cli(*typed, tmp_path / "cut").code == 0
    assert _rows_of(tmp_path / "cut") == _rows_of(tmp_path / "whole")
    for name in ("skill.safetensors", "state/state.safetensors", "state/state.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    one, other = (json.loads((tmp_path / name / "adapt.json").read_text()) for name in ("cut", "whole"))
    assert one == other


def test_ctrl_c_ends_with_130_and_the_run_goes_on(
    cli: Cli, base: Path, stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["adapt", base, "--stream", stream, "--adapter", "tent", "--out", tmp_path / "run"]
    write = StreamRecord.learned

    def interrupted(self: StreamRecord, step: Any, update: Any) -> None:
        write(self, step, update)
        if step.number == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StreamRecord, "learned", interrupted)
        answer = cli(*typed)
    assert (answer.code, answer.err.splitlines()[-1].startswith("error: interrupted")) == (130, True)
    assert cli(*typed).code == 0
    examples, batches, _ = _rows_of(tmp_path / "run")
    assert (len(examples), len(batches)) == (96, 12)


@pytest.mark.slow
def test_a_run_that_the_system_kills_goes_on(base: Path, stream: Path, tmp_path: Path) -> None:
    typed = [
        sys.executable, "-m", "genepool", "adapt", base, "--stream", stream, "--adapter", "diversity", "--rounds", "40",
        "--quiet", "--out",
    ]  # fmt: skip
    subprocess.run([*map(str, typed), str(tmp_path / "whole")], check=True, cwd=tmp_path)
    process = subprocess.Popen([*map(str, typed), str(tmp_path / "cut")], cwd=tmp_path)
    # Killed once something was issued, wherever that is.
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if (tmp_path / "cut" / "stream.sqlite").is_file() and _issued(tmp_path / "cut") > 200:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL
    subprocess.run([*map(str, typed), str(tmp_path / "cut")], check=True, cwd=tmp_path)
    assert _rows_of(tmp_path / "cut") == _rows_of(tmp_path / "whole")
    assert not list(tmp_path.glob(".cut*"))


def _issued(out: Path) -> int:
    try:
        with sqlite3.connect(out / "stream.sqlite") as database:
            return int(database.execute("SELECT count(*) FROM examples").fetchone()[0])
    except sqlite3.DatabaseError:
        return 0


def test_rows_that_others_changed_are_noticed(
    cli: Cli, base: Path, stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    typed = ["adapt", base, "--stream", stream, "--adapter", "tent", "--out", out]
    with monkeypatch.context() as patch:
        patch.setattr(StreamRecord, "learned", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            cli(*typed)
    with sqlite3.connect(out / "stream.sqlite") as database:
        database.execute("UPDATE examples SET entropy = entropy + 1")
    answer = cli(*typed)
    assert answer.code == 2
    assert "batch 0 comes to other predictions than when it was issued" in answer.err


def test_what_augmentations_cost_is_measured_first_and_told(cli: Cli, base: Path, stream: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    typed = ["adapt", base, "--adapter", "cotta", "--set", "augmentations=1", "--rounds", "1"]
    answer = cli(*typed, "--stream", stream, "--out", out)
    assert answer.code == 0
    run = Adaptation(base, stream, "frozen")
    source = run._reader.source()
    assert source is not None
    inputs, targets = source.batches[0], source.targets[0]
    plain = run.model.logits(inputs).argmax(-1) == targets
    changed = run.model.logits(augmented(inputs, 0, 0, "cost", "m")).argmax(-1) == targets
    cost = float(plain.float().mean() - changed.float().mean())
    told = json.loads((out / "adapt.json").read_text())
    assert told["augmentation_cost"] == pytest.approx(cost)
    said = f"augmentations cost the model {100 * cost:.1f} points of accuracy on source examples"
    assert said in answer.err
    assert said in (out / "report.html").read_text()
    bare = write_stream(tmp_path / "bare", rows(16), source=False)
    assert "an unknown accuracy" in cli(*typed, "--stream", bare, "--out", tmp_path / "other").err
    assert run.augmentation_cost is None
    assert told_cost(0.021).endswith("may collapse")
    assert not told_cost(0.02).endswith("may collapse")


def test_a_gate_is_held(cli: Cli, base: Path, stream: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gates.yaml"
    gate.write_text("gates: [{task: noise, at_least: -1.0}]\n")
    typed = ["adapt", base, "--stream", stream, "--rounds", "1", "--gate", gate]
    assert cli(*typed, "--adapter", "frozen", "--out", tmp_path / "a").code == 0
    gate.write_text("gates: [{task: mean, at_least: 0.5}]\n")
    answer = cli(*typed, "--adapter", "frozen", "--out", tmp_path / "b")
    assert (answer.code, "1 of 1 gates do not hold" in answer.err) == (1, True)
    gate.write_text("gates: [{task: fire, at_least: 0.5}]\n")
    answer = cli(*typed, "--adapter", "frozen", "--out", tmp_path / "c")
    assert (answer.code, (tmp_path / "c").exists()) == (2, False)
    assert "no task 'fire'" in answer.err


def test_worse_than_doing_nothing_fails_under_a_gate(cli: Cli, base: Path, tmp_path: Path) -> None:
    """Labels that are what the frozen model says: whatever is adapted is worse."""
    from genepool.adaptation import Adaptation

    lines = rows(64)
    said: dict[str, str] = {}
    for step in Adaptation(base, write_stream(tmp_path / "a", lines), "frozen", rounds=1):
        said |= dict(zip(step.keys, step.frozen, strict=True))
    stream = write_stream(tmp_path / "b", [{**row, "answer": said[row["id"]]} for row in lines])
    gate = tmp_path / "gates.yaml"
    gate.write_text("gates: [{task: each, at_least: -1.0}]\n")
    # The mean prediction is pushed to be even where the frozen model says one class: chance has no part in it.
    typed = ["adapt", base, "--stream", stream, "--adapter", "diversity", "--out", tmp_path / "run"]
    typed += ["--set", "rate=1.0", "--set", "diversity=100", "--rounds", "2"]
    answer = cli(*typed, "--gate", gate, "--json")
    assert json.loads(answer.out)["verdict"] == "worse than doing nothing"
    assert (answer.code, "worse than doing nothing" in answer.err) == (1, True)
    # Without a gate the same is told and nothing fails.
    assert cli(*typed).code == 0


def test_a_run_that_the_watch_stops_says_so(cli: Cli, base: Path, stream: Path, tmp_path: Path) -> None:
    typed = ["adapt", base, "--stream", stream, "--adapter", "tent", "--set", "rate=10", "--rounds", "40"]
    answer = cli(*typed, "--on-collapse", "stop", "--out", tmp_path / "a")
    told = json.loads((tmp_path / "a" / "adapt.json").read_text())
    assert answer.code == 0
    assert told["stopped"]
    assert f"the watch stopped the run after {told['batches']:,} batches" in answer.out


def test_the_options_say_how(cli: Cli, base: Path, stream: Path, tmp_path: Path) -> None:
    typed = ["adapt", base, "--stream", stream, "--adapter", "tent", "--json", "--quiet"]
    answer = cli(
        *typed, "--out", tmp_path / "a", "--order", "mixed", "--rounds", "3", "--labels-late", "2", "--seed", "4",
        "--on-collapse", "reset", "--set", "rate=1e-1", "--clean", stream, "--threads", "1", "--device", "cpu",
        "--dtype", "float64",
    )  # fmt: skip
    assert answer.code == 0
    told = json.loads(answer.out)
    wanted = {"order": "mixed", "rounds": 3, "labels_late": 2, "seed": 4, "on_collapse": "reset", "dtype": "float64"}
    assert {key: told[key] for key in wanted} == wanted
    assert told["options"] == {"rate": 0.1}
    assert told["clean_before"] == told["clean"][0]["frozen"]
    assert told["clean"][-1]["batches"] == told["batches"] == 18


def test_the_clean_set_may_be_tasks(cli: Cli, base: Path, stream: Path, tmp_path: Path) -> None:
    task = tmp_path / "tasks" / "generic"
    task.mkdir(parents=True)
    lines = [
        {"id": row["id"], "prompt": " ".join(str(round(16 * one)) for one in row["input"]), "answer": row["answer"]}
        for row in rows(12)
    ]
    (task / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    typed = ["adapt", base, "--stream", stream, "--adapter", "frozen", "--rounds", "1", "--json"]
    answer = cli(*typed, "--clean", tmp_path / "tasks", "--out", tmp_path / "run")
    told = json.loads(answer.out)
    assert told["clean_before"] == told["clean_after"] is not None


def test_code_and_pickles_run_only_when_named(cli: Cli, base: Path, stream: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text((base / "config.json").read_text())
    torch.save(load_file(base / "model.safetensors"), tmp_path / "old" / "pytorch_model.bin")
    plain, task = tmp_path / "digits.jsonl", tmp_path / "digits.py"
    plain.write_text('{"id": "a", "prompt": "' + " ".join(["3"] * 64) + '", "answer": "1"}\n')
    task.write_text(f"from genepool.tasks import load_tasks\n\n(digits,) = load_tasks({str(plain)!r})\n")
    typed = ["--stream", stream, "--adapter", "frozen", "--rounds", "1", "--out", tmp_path / "run"]
    answer = cli("adapt", tmp_path / "old", *typed, "--clean", task)
    assert (answer.code, "--trust-tasks" in answer.err) == (2, True)
    answer = cli("adapt", tmp_path / "old", *typed, "--clean", task, "--trust-tasks", task)
    assert (answer.code, "--allow-pickle" in answer.err) == (2, True)
    both = ["--trust-tasks", task, "--allow-pickle"]
    assert cli("adapt", tmp_path / "old", *typed, "--clean", task, *both, "--json").code == 0


def test_a_stream_without_labels_has_no_verdict(cli: Cli, base: Path, tmp_path: Path) -> None:
    lines = [{"id": row["id"], "input": row["input"]} for row in rows(24)]
    stream = write_stream(tmp_path / "s", lines, source=False)
    typed = ["adapt", base, "--stream", stream, "--adapter", "tent", "--rounds", "1", "--out", tmp_path / "run"]
    told = json.loads(cli(*typed, "--json").out)
    assert [told[key] for key in ("frozen", "adapted", "difference", "verdict")] == [None] * 4
    assert "there are no labels" in (tmp_path / "run" / "report.html").read_text()
    assert cli(*typed).code == 0


def test_unknown_classes_are_told_apart(cli: Cli, base: Path, tmp_path: Path) -> None:
    lines = [{**row, **({"answer": "cat", "known": False} if at % 3 == 0 else {})} for at, row in enumerate(rows(24))]
    stream = write_stream(tmp_path / "s", lines)
    typed = ["adapt", base, "--stream", stream, "--adapter", "frozen", "--rounds", "1", "--out", tmp_path / "run"]
    told = json.loads(cli(*typed, "--json").out)
    assert told["unknown"]["n"] == 8
    assert told["unknown"]["frozen"] == told["unknown"]["adapted"]
    assert told["history"][0]["n"] == 16


def test_auroc_by_hand() -> None:
    assert auroc([2.0, 3.0], [1.0, 0.0]) == 1.0
    assert auroc([0.0], [1.0]) == 0.0
    assert auroc([1.0, 2.0], [1.0, 2.0]) == 0.5
    assert auroc([1.0, 3.0], [2.0, 0.0]) == 0.75


def test_a_broken_model_gives_no_skill(
    cli: Cli, base: Path, stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genepool.adaptation.adapters import tent

    monkeypatch.setattr(tent, "entropy", lambda logits: logits.sum(-1) * float("nan"))
    typed = ["adapt", base, "--stream", stream, "--adapter", "tent", "--out", tmp_path / "run"]
    answer = cli(*typed, "--json")
    assert answer.code == 0
    told = json.loads(answer.out)
    assert told["skill"] is None
    assert told["events"][0]["alarm"] == "a prediction is not a number"
    assert not (tmp_path / "run" / "skill.safetensors").exists()


def test_a_model_that_predicts_nan_before_it_learned_is_refused(cli: Cli, base: Path, tmp_path: Path) -> None:
    lines = rows()
    lines[5]["input"] = [1e30] * 64
    stream = write_stream(tmp_path / "s", lines)
    answer = cli("adapt", base, "--stream", stream, "--adapter", "tent", "--out", tmp_path / "run")
    assert answer.code == 2, answer.err
    assert f"stream.jsonl:{lines[5]['id']}: " in answer.err
    assert "predicts NaN for 1 of 48 examples" in answer.err
    assert not (tmp_path / "run").exists()


def test_the_page_is_drawn_again(cli: Cli, base: Path, stream: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    typed = ["adapt", base, "--stream", stream, "--adapter", "sar", "--clean", stream, "--out", out]
    assert cli(*typed).code == 0
    page = (out / "report.html").read_bytes()
    assert cli("report", out).code == 0
    assert (out / "report.html").read_bytes() == page
    assert cli("report", out, "--out", tmp_path / "page.md").code == 0
    assert "| round |" in (tmp_path / "page.md").read_text()
    (out / "adapt.json").unlink()
    answer = cli("report", out)
    assert (answer.code, "this run is not finished" in answer.err) == (2, True)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--adapter tant", "there is no adapter 'tant'. Did you mean 'tent'?"),
        ("--adapter tent --set speed=1", "speed"),
        ("--adapter tent --set rate=0", "rate"),
        ("--adapter tent --order sideways", "there is no 'sideways'"),
        ("--adapter tent --on-collapse cry", "there is no 'cry'"),
        ("--adapter tent --rounds 0", "--rounds"),
        ("--adapter tent --clean nowhere", "nowhere"),
        ("--adapter tent --dtype int4", "int4"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    cli: Cli, base: Path, stream: Path, tmp_path: Path, typed: str, said: str
) -> None:
    answer = cli("adapt", base, "--stream", stream, "--out", tmp_path / "run", *typed.split())
    assert answer.code == 2
    assert answer.err.splitlines()[-1].startswith("error: ")
    assert said in answer.err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_named(cli: Cli, base: Path, stream: Path, tmp_path: Path) -> None:
    assert "MODEL" in cli("adapt").err
    assert "--stream" in cli("adapt", base).err
    assert "--adapter" in cli("adapt", base, "--stream", stream).err
    assert "--out" in cli("adapt", base, "--stream", stream, "--adapter", "tent").err
    answer = cli("adapt", base, "--stream", tmp_path, "--adapter", "tent", "--out", tmp_path / "run")
    assert (answer.code, "holds no stream.json" in answer.err) == (2, True)


def _without_keys(told: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """A result without each of its keys in turn, also of what lies within, and what may not stand beside each other."""
    found = [(key, {name: one for name, one in told.items() if name != key}) for key in told]
    for key, value in told.items():
        first = value[0] if isinstance(value, list) and value else value
        for inner in first if isinstance(first, dict) else ():
            less = {name: one for name, one in first.items() if name != inner}
            found.append((f"{key} {inner}", {**told, key: [less, *value[1:]] if isinstance(value, list) else less}))
    return [*found, ("history", {**told, "history": []}), ("clean_before", {**told, "clean_before": None})]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "series"])
def test_a_result_that_lacks_a_key_is_damaged_or_as_good(
    cli: Cli, base: Path, stream: Path, forecaster: Path, series: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "run"
    typed = ["adapt", base, "--stream", stream, "--adapter", "tent", "--set", "rate=10", "--clean", stream]
    if kind == "series":
        typed = ["adapt", forecaster, "--stream", series, "--adapter", "petsa"]
    typed += ["--out", out, "--quiet"]
    assert cli(*typed).code == 0
    file = out / "adapt.json"
    told = json.loads(file.read_text())
    assert (kind == "series") == (told["error"] is not None)
    damaged = set()
    for key, less in _without_keys(told):
        file.write_text(json.dumps(less))
        for command in (typed, ["report", out, "--out", tmp_path / "page.html", "--overwrite"]):
            answer = cli(*command)
            assert answer.code in (0, 2), (key, answer.err)
            if answer.code == 2:
                (line,) = answer.err.splitlines()
                assert "adapt.json" in line, key
                damaged.add(key)
    assert {"trains", "stopped", "history", "history verdict", "history difference", "model path"} <= damaged
    assert ("error late" in damaged) == (kind == "series")
    assert ("clean_before" in damaged) == (kind == "classes")


def test_a_model_that_writes_text_is_refused(cli: Cli, tiny_testbed: Any, stream: Path, tmp_path: Path) -> None:
    answer = cli("adapt", tiny_testbed.base, "--stream", stream, "--adapter", "tent", "--out", tmp_path / "run")
    assert (answer.code, "expected a classifier" in answer.err) == (2, True)


def test_two_runs_at_one_place_take_turns(cli: Cli, base: Path, stream: Path, tmp_path: Path) -> None:
    from genepool import locking

    with locking.locked(tmp_path / "run"):
        answer = cli("adapt", base, "--stream", stream, "--adapter", "frozen", "--out", tmp_path / "run")
    assert (answer.code, "is writing here" in answer.err) == (2, True)


def test_the_adapters_are_listed(cli: Cli) -> None:
    told = json.loads(cli("adapt", "--list", "--json").out)
    assert [one["name"] for one in told["adapters"]] == sorted(all_adapters())
    assert "tent" in cli("adapt", "--list").out


def test_the_skill_is_merged_and_taken_away(cli: Cli, base: Path, stream: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cli("adapt", base, "--stream", stream, "--adapter", "diversity", "--out", out).code == 0
    skill = out / "skill.safetensors"
    assert cli("skill", "apply", skill, "--base", base, "--out", tmp_path / "adapted").code == 0
    negated = tmp_path / "back.safetensors"
    assert cli("skill", "negate", skill, "--out", negated).code == 0
    assert cli("skill", "show", skill).code == 0
    # The adapted model adapts again, by name.
    typed = ["adapt", f"{base}+{skill}", "--stream", stream, "--adapter", "frozen", "--rounds", "1"]
    assert cli(*typed, "--out", tmp_path / "again").code == 0


def test_another_model_is_another_run(cli: Cli, base: Path, stream: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    typed = ["--stream", stream, "--adapter", "frozen", "--rounds", "1", "--out", out]
    assert cli("adapt", base, *typed).code == 0
    answer = cli("adapt", write_model(tmp_path / "other", seed=9), *typed)
    assert (answer.code, "model was" in answer.err) == (2, True)
