"""Folders of streams, adaptations, trainings, loops and reward models: how each is made, and the commands that read it.

What a run keeps to go on with is made by stopping one: a state, a mark or a record of a run that is whole is never read
again. Added to the kinds of `hostile_files`.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from tests.hostile.kinds import MADE, Kind, made

_ADAPT = "adapt seen --stream stream --adapter eata --set margin=1.0 --labels-late 1 --out"
_FORECAST = "adapt forecaster --stream series --adapter petsa --out out"
_TRAIN = "train tasks/say --base base --steps 4 --every 2 --batch 2 --test 2 --ledger own.sqlite"
_LEARN = (
    "train owned/tuned owned/b --base base --steps 2 --every 2 --batch 2 --test 2 --learner {learner} --out {out} "
    "--ledger own.sqlite"
)
_MADE = (
    "train turned/turn --base base --sampler dataenvgym --set sampler.each=2 --set sampler.every=2 "
    + (_TRAIN.partition("--base base ")[2])
)
_JUDGE = "judge/reward_model"
_JUDGED = (
    f"train tasks/say --base base --objective grpo --set samples=2 --set "
    f"'reward={{{{reward_model: {{{{path: {_JUDGE}}}}}}}}}' --steps 1 --batch 2 --test 2 --out out --ledger own.sqlite"
)


def _learn(learner: str, out: str) -> str:
    return _LEARN.format(learner=learner, out=out)


def seal(folder: Path) -> None:
    """Puts the digest of a loop's lines into the mark of their stage: whoever can write one can write the other."""
    (lines,) = folder.glob("looping/stages/*-sample/samples.jsonl")
    mark = lines.parent / "stage.json"
    told = json.loads(mark.read_text())
    told["lines"]["samples"] = hashlib.sha256(lines.read_bytes()).hexdigest()
    mark.write_text(json.dumps(told))


_LOOP = "train loop.yaml --out looping --ledger own.sqlite"
_STAGE = "looping/stages/0001-02-sample"
_LOOPED = ("base", "tasks", "loop.yaml")

RUN_KINDS = (
    Kind("stream settings", "stream/stream.json", "json", (f"{_ADAPT} out",), ("seen",)),
    Kind("stream examples", "stream/stream.jsonl", "jsonl", (f"{_ADAPT} out",), ("seen",)),
    Kind("source examples", "stream/source.jsonl", "jsonl", (f"{_ADAPT} out",), ("seen",)),
    Kind("late labels", "stream/labels.jsonl", "jsonl", (f"{_ADAPT} out",), ("seen",)),
    Kind("series settings", "series/stream.json", "json", (_FORECAST,), ("forecaster",)),
    Kind("series", "series/stream.jsonl", "jsonl", (_FORECAST,), ("forecaster",)),
    Kind("forecaster config", "forecaster/config.json", "json", (_FORECAST, "inspect forecaster"), ("series",)),
    Kind("forecaster", "forecaster/model.safetensors", "tensors", (_FORECAST,), ("series",)),
    Kind("adaptation state", "adapting/state/state.json", "json", (f"{_ADAPT} adapting",), ("seen", "stream")),
    Kind("tensors of an adaptation state", "adapting/state/state.safetensors", "tensors", (f"{_ADAPT} adapting",),
         ("seen", "stream")),
    Kind("record of a stopped adaptation", "adapting/stream.sqlite", "sqlite", (f"{_ADAPT} adapting",),
         ("seen", "stream")),
    Kind("adaptation record", "adapted/stream.sqlite", "sqlite",
         ("report adapted --out page.html", f"{_ADAPT} adapted"), ("seen", "stream")),
    Kind("adaptation result", "adapted/adapt.json", "json", ("report adapted --out page.html", f"{_ADAPT} adapted"),
         ("seen", "stream")),
    Kind("training with a sampler", "sampled.yaml", "yaml", ("plan sampled.yaml",), ("base", "tasks")),
    Kind("training by rewards", "rewarded.yaml", "yaml", ("plan rewarded.yaml",), ("base", "tasks")),
    Kind("training in order", "sequence.yaml", "yaml", ("plan sequence.yaml",), ("base", "tasks")),
    Kind("training of a form", "shaped.yaml", "yaml", ("plan shaped.yaml",), ("base", "tasks")),
    Kind("pairs", "pairs/say/train.jsonl", "jsonl",
         ("train pairs/say --base base --objective dpo --steps 1 --batch 2 --test 2 --out out --ledger own.sqlite",),
         ("base",)),
    Kind("labelled answers", "labelled/say/train.jsonl", "jsonl",
         ("train labelled/say --base base --objective unlikelihood --steps 1 --batch 2 --test 2 --out out "
          "--ledger own.sqlite",),
         ("base",)),
    Kind("state of a training", "halfway/states/0000002/state.safetensors", "tensors",
         (f"{_TRAIN} --out halfway", "verify-run halfway --step 3"), ("base", "tasks")),
    Kind("record of a stopped training", "halfway/run.sqlite", "sqlite",
         (f"{_TRAIN} --out halfway", "verify-run halfway --step 3"), ("base", "tasks")),
    Kind("record of made examples", "making/run.sqlite", "sqlite",
         (f"{_MADE} --out making", "verify-run making --step 3"), ("base", "turned")),
    Kind("record of examples that were made", "maker/run.sqlite", "sqlite", ("report maker --out page.html",)),
    Kind("control tokens", "prefixed/control_tokens.json", "json",
         ("generate prefixed --prompt a --max-new-tokens 2", "evaluate prefixed --tasks tasks --limit 1",
          "inspect {world}/base prefixed"),
         ("tasks",)),
    Kind("reward model", f"{_JUDGE}/reward_model.json", "json", (_JUDGED,), ("base", "tasks")),
    Kind("heads of a reward model", f"{_JUDGE}/heads.safetensors", "tensors", (_JUDGED,), ("base", "tasks")),
    Kind("member of a reward model", f"{_JUDGE}/member_1/adapter_model.safetensors", "tensors", (_JUDGED,),
         ("base", "tasks")),
    Kind("memory of a learner", "ewc/tasks/0001/memory.json", "json", (_learn("ewc", "ewc"),), ("base", "owned")),
    Kind("tensors of a learner's memory", "ewc/tasks/0001/memory.safetensors", "tensors", (_learn("ewc", "ewc"),),
         ("base", "owned")),
    Kind("memory of replay", "replayed/tasks/0001/memory.json", "json", (_learn("replay", "replayed"),),
         ("base", "owned")),
    Kind("learned task", "ewc/tasks/0001/task.json", "json", (_learn("ewc", "ewc"),), ("base", "owned")),
    Kind("record of tasks in order", "ewc/run.sqlite", "sqlite", (_learn("ewc", "ewc"),), ("base", "owned")),
    Kind("result of tasks in order", "learned/train.json", "json",
         ("report learned --out page.html", _learn("replay", "learned")), ("base", "owned")),
    Kind("loop", "loop.yaml", "yaml", ("plan loop.yaml", "train loop.yaml --out out --ledger own.sqlite"),
         ("base", "tasks")),
    Kind("record of a loop", "looping/record.json", "json", (_LOOP,), _LOOPED),
    Kind("stage of a loop", f"{_STAGE}/stage.json", "json", (_LOOP,), _LOOPED),
    Kind("lines of a loop", f"{_STAGE}/samples.jsonl", "jsonl", (_LOOP,), _LOOPED, seal),
    Kind("labels of a loop", f"{_STAGE}/labels.txt", "bytes", (_LOOP,), _LOOPED),
    Kind("result of a loop", "looped/loop.json", "json",
         ("report looped --out page.html", "train loop.yaml --out looped --ledger own.sqlite"), _LOOPED),
)  # fmt: skip


def _typed(folder: Path, line: str, *patches: Any) -> int:
    """Runs a command in this process, in a folder."""
    import contextlib
    import io
    import os

    from genepool.cli.main import run

    here = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, GENEPOOL_CACHE=str(folder / "cache")))
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            for patch in patches:
                stack.enter_context(patch)
            return run(shlex.split(line))
    finally:
        os.chdir(here)


def _stopping(owner: Any, name: str, when: Callable[..., bool]) -> Any:
    """A patch after which a method stops the command, once it has done its work."""
    plain = getattr(owner, name)

    def stopped(self: Any, *arguments: Any) -> Any:
        found = plain(self, *arguments)
        if when(self, *arguments):
            raise KeyboardInterrupt
        return found

    return mock.patch.object(owner, name, stopped)


@made()
def seen(folder: Path) -> None:
    """A small classifier of digits."""
    from tests.adaptation import made_streams

    made_streams.write_model(folder / "seen")


@made("seen")
def stream(folder: Path) -> None:
    """Two domains of it, in batches of four, with labels that come late."""
    from tests.adaptation import made_streams

    lines = made_streams.rows(16)
    late = [{"id": line["id"], "answer": line.pop("answer")} for line in lines[:4]]
    made_streams.write_stream(folder / "stream", lines, batch=4, rounds=1)
    (folder / "stream" / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in late))


@made()
def forecaster(folder: Path) -> None:
    """A forecaster that was never fitted, and a series."""
    from tests.adaptation import made_series

    made_series.write_forecaster(folder / "forecaster")
    made_series.write_series(folder / "series", made_series.series_rows(30))


MADE["series"] = (("forecaster",), lambda _: None)
MADE["adapted"] = (("seen", "stream"), f"{_ADAPT} adapted")


@made("seen", "stream")
def adapting(folder: Path) -> None:
    """A run along the stream that was stopped after a state was kept."""
    from genepool.adaptation import runner
    from genepool.adaptation.stream_record import StreamRecord

    every = mock.patch.object(runner, "EVERY", 2)
    stop = _stopping(StreamRecord, "learned", lambda _, step, *__: step.number == 2)
    assert _typed(folder, f"{_ADAPT} adapting --quiet", every, stop) == 130


def _training(name: str, **keys: Any) -> None:
    told = {"train": 1, "base": "base", "tasks": ["tasks/say"], "lora": {"rank": 2}, "steps": 2, "batch": 2, **keys}
    MADE[name] = (("base",), lambda folder: (folder / f"{name}.yaml").write_text(yaml.safe_dump(told)))


_training("sampled", tasks=["tasks/say", "tasks/pick"], sampler="skill_it", sampler_options={"checkpoint": 2})
_training("rewarded", objective="grpo", options={"samples": 2, "reward": {"metric": 1.0, "novelty": {"weight": 0.5}}})
_training("sequence", tasks=["tasks/say", "tasks/pick"], learner="ewc")
_training("shaped", form="hydra", form_options={"rank": 2}, average={"decay": 0.5})


def _lines(folder: Path, lines: list[dict[str, object]]) -> None:
    folder.mkdir(parents=True)
    (folder / "task.yaml").write_text("metric: contains\nmax_new_tokens: 2\n")
    for split in ("train", "valid", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@made("base")
def pairs(folder: Path) -> None:
    """Pairs of a better and a worse answer."""
    _lines(folder / "pairs" / "say", [{"prompt": f"{x}=", "chosen": x, "rejected": "z"} for x in "abcd"])


@made("base")
def labelled(folder: Path) -> None:
    """Answers with a label."""
    _lines(
        folder / "labelled" / "say",
        [
            {"prompt": f"{x}=", "completion": x if good else "z", "label": good}
            for x in "abcd"
            for good in (True, False)
        ],
    )


@made("base")
def turned(folder: Path) -> None:
    """A task that a template draws, whose examples have a skill."""
    place = folder / "turned" / "turn"
    place.mkdir(parents=True)
    (place / "template.yaml").write_text(
        'variables:\n  a: {letters: [1, 4]}\n  skill: {choice: [turn, say]}\nprompt: "{{ a }}="\nanswer: "{{ a }}"\n'
        'tags: ["{{ skill }}"]\ncounts: {train: 8, valid: 4, test: 2}\nseed: 1\n'
    )
    (place / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 2\n")


def _stopped_training(folder: Path, line: str) -> None:
    from genepool.training.run import Run

    assert _typed(folder, line, _stopping(Run, "_after", lambda _, step, *__: step.number == 3)) == 130


@made("base")
def halfway(folder: Path) -> None:
    """A training that was stopped after its third step."""
    _stopped_training(folder, f"{_TRAIN} --out halfway --quiet")


@made("base", "turned")
def making(folder: Path) -> None:
    """One that has examples made, stopped after the second round of them."""
    _stopped_training(folder, f"{_MADE} --out making --quiet")


@made("base")
def prefixed(folder: Path) -> None:
    """The base, asked with a prefix."""
    from genepool.weights.control import CONTROL_FILE, Control

    shutil.copytree(folder / "base", folder / "prefixed")
    (folder / "prefixed" / CONTROL_FILE).write_text(Control("a", ("b", "c")).text())


MADE["maker"] = (("base", "turned"), f"{_MADE} --out maker")
MADE["judge"] = (
    ("pairs",),
    "train pairs/say --base base --objective reward_model --set members=2 --steps 1 --batch 2 --lora 2 --out judge "
    "--ledger own.sqlite",
)
MADE["learned"] = (("base", "owned"), _learn("replay", "learned"))


def _in_order(learner: str, out: str) -> None:
    def make(folder: Path) -> None:
        from genepool.training.continual.folder import LearnedTask

        stop = _stopping(LearnedTask, "write", lambda _: True)
        assert _typed(folder, f"{_learn(learner, out)} --quiet", stop) == 130

    MADE[out] = (("base", "owned"), make)


# Two tasks, of which the first is learned.
_in_order("ewc", "ewc")
_in_order("replay", "replayed")


@made("base")
def loop(folder: Path) -> None:
    """A loop that samples, selects and trains."""
    stages = [
        {"draw": {"count": 4}}, {"sample": {"samples": 2}}, {"select": {"by": "all"}},
        {"train": {"steps": 1, "learning_rate": 0.001}}, {"measure": {"count": 2, "others": 0}},
    ]  # fmt: skip
    told = {"loop": 1, "base": "base", "tasks": ["tasks/say"], "rounds": 1, "lora": {"rank": 2}, "test": 2}
    told |= {"training": {"batch": 2, "every": 1}, "round": stages}
    (folder / "loop.yaml").write_text(yaml.safe_dump(told))


MADE["looped"] = (("base", "loop"), "train loop.yaml --out looped --ledger own.sqlite")


@made("base", "loop")
def looping(folder: Path) -> None:
    """It, stopped when its samples were drawn."""
    from genepool.training.loops.folder import StageMark

    stop = _stopping(StageMark, "write", lambda mark: mark.name == "sample")
    assert _typed(folder, f"{_LOOP} --quiet", stop) == 130
