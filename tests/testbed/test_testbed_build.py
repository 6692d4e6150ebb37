"""A build from outside: what appears, when it is made again, and what a killed one leaves.

Most tests train a model too small to learn anything, in a second; those that need real skills use `tiny_testbed`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genepool.errors import InputError
from genepool.locking import locked, partial_path
from genepool.testbed import Testbed, build
from genepool.testbed.beds import text as text_bed
from genepool.testbed.data import Lengths, split_of
from genepool.testbed.folder import hash_files
from genepool.testbed.schedule import Phase, Schedule

MINUTE = Schedule(
    hidden=16,
    layers=1,
    heads=2,
    feed_forward=24,
    lengths=Lengths(4, 5),
    base=Phase(3, 8, 1e-3, warmup=1, shards=2),
    full=Phase(2, 8, 1e-3, replay=0.25),
    lora=Phase(2, 8, 1e-3, replay=0.25),
    lora_rank=2,
)
SKILLS = ("reverse", "mask")


@pytest.fixture
def minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every build one of the `MINUTE` size."""
    monkeypatch.setattr(text_bed, "schedule_for", lambda regime, *, tiny, skills: MINUTE)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a testbed of that size."""
    folder = tmp_path_factory.mktemp("text") / "bed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_bed, "schedule_for", lambda regime, *, tiny, skills: MINUTE)
        build(folder, skills=SKILLS)
    return folder


@pytest.fixture
def bed(built: Path, minute: None, tmp_path: Path) -> Testbed:
    """A copy of it of one's own, which may be changed."""
    return build(shutil.copytree(built, tmp_path / "bed"), skills=SKILLS)


def _hashes(folder: Path) -> dict[str, str]:
    """Everything that must not depend on where or when a testbed was built."""
    files = hash_files(folder)
    return {name: value for name, value in files.items() if not name.endswith(("adapter_config.json", "manifest.json"))}


@pytest.mark.slow
def test_a_finished_folder_has_what_the_contract_says(minute: None, tmp_path: Path) -> None:
    bed = build(tmp_path / "bed", skills=SKILLS)
    assert {path.name for path in bed.folder.iterdir()} == {"base", "full", "lora", "tasks", "manifest.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"bed"}
    assert set(bed.full) == set(bed.lora) == set(SKILLS)
    for model in [bed.base, *bed.full.values()]:
        names = {path.name for path in model.iterdir()}
        assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    for adapter in bed.lora.values():
        assert {path.name for path in adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert {path.name for path in bed.tasks.iterdir()} == {*SKILLS, "generic"}
    for task in bed.tasks.iterdir():
        assert {path.name for path in task.iterdir()} == {"train.jsonl", "valid.jsonl", "test.jsonl", "task.yaml"}


@pytest.mark.slow
def test_the_manifest_says_what_was_done(minute: None, tmp_path: Path) -> None:
    bed = build(tmp_path / "bed", skills=SKILLS, seed=7)
    manifest = json.loads((bed.folder / "manifest.json").read_text())
    assert manifest == bed.manifest
    assert manifest["settings"] == {"regime": "elicit", "tiny": False, "seed": 7, "skills": list(SKILLS)}
    assert manifest["tasks"]["reverse"] == {"train": 4096, "valid": 512, "test": 1024}
    assert set(manifest["models"]) == {"base", "full/reverse", "full/mask", "lora/reverse", "lora/mask"}
    assert manifest["models"]["base"]["steps"] == 3
    assert set(manifest["models"]["base"]["scores"]) == {"reverse", "mask", "generic"}
    assert manifest["skills"]["reverse"]["tag"] == "R:"
    everything = hash_files(bed.folder)
    assert manifest["files"] == {name: value for name, value in everything.items() if name != "manifest.json"}


def test_no_input_is_in_two_splits_on_the_disk(bed: Testbed) -> None:
    for path in bed.tasks.rglob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert {split_of(row["prompt"][2:-1]) for row in rows} == {path.stem}
        assert all(set(row) == {"id", "prompt", "answer"} for row in rows)
        assert len({row["id"] for row in rows}) == len(rows)


@pytest.mark.slow
def test_the_same_settings_again_touch_nothing(minute: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(tmp_path / "bed", skills=SKILLS)
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    monkeypatch.setattr(text_bed, "two_workers", lambda: pytest.fail("a cached build must not train"))
    second = build(tmp_path / "bed", skills=SKILLS)
    assert (first.cached, second.cached) == (False, True)
    assert second.manifest == first.manifest
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before
    assert build(tmp_path / "bed", skills=SKILLS, overwrite=True).cached


@pytest.mark.slow
def test_same_seed_same_bits_other_seed_other_bits(minute: None, tmp_path: Path) -> None:
    import torch

    one = build(tmp_path / "one", skills=SKILLS, seed=1)
    torch.manual_seed(99)  # the caller's generator has no say
    again = build(tmp_path / "again", skills=SKILLS, seed=1)
    other = build(tmp_path / "other", skills=SKILLS, seed=2)
    assert _hashes(one.folder) == _hashes(again.folder)
    weights = "base/model.safetensors"
    assert _hashes(one.folder)[weights] != _hashes(other.folder)[weights]


@pytest.mark.slow
def test_a_build_leaves_torch_as_it_was(minute: None, tmp_path: Path) -> None:
    import torch

    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    build(tmp_path / "bed", skills=SKILLS)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 5}, "built with other settings (default size, elicit, seed 0, reverse,mask)"),
        ({"skills": ("mask", "reverse")}, "built with other settings"),
        ({"regime": "acquire"}, "built with other settings"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_touched(bed: Testbed, change: dict[str, Any], said: str) -> None:
    before = hash_files(bed.folder)
    with pytest.raises(InputError) as raised:
        build(bed.folder, **{"skills": SKILLS, **change})
    assert said in str(raised.value)
    assert hash_files(bed.folder) == before
    assert not build(bed.folder, **{"skills": SKILLS, **change}, overwrite=True).cached


@pytest.mark.slow
def test_a_changed_or_missing_file_is_noticed(bed: Testbed, tmp_path: Path) -> None:
    good = _hashes(bed.folder)
    lines = (bed.tasks / "mask" / "test.jsonl").read_text().splitlines(keepends=True)
    (bed.tasks / "mask" / "test.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match=r"tasks/mask/test\.jsonl: this file .* was changed"):
        build(tmp_path / "bed", skills=SKILLS)
    assert not build(tmp_path / "bed", skills=SKILLS, overwrite=True).cached
    (bed.full["mask"] / "model.safetensors").unlink()
    with pytest.raises(InputError, match="missing"):
        build(tmp_path / "bed", skills=SKILLS)
    build(tmp_path / "bed", skills=SKILLS, overwrite=True)
    assert _hashes(bed.folder) == good


@pytest.mark.parametrize("manifest", [None, "not json", "[]", '{"genepool_testbed": 99}', '{"genepool_testbed": 1}'])
def test_a_folder_of_something_else_is_refused(minute: None, tmp_path: Path, manifest: str | None) -> None:
    folder = tmp_path / "bed"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    if manifest is not None:
        (folder / "manifest.json").write_text(manifest)
    with pytest.raises(InputError, match="than a finished testbed"):
        build(folder, skills=SKILLS)
    assert (folder / "thesis.txt").read_text() == "mine"
    assert not partial_path(folder).exists()


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bed").write_text("mine")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        build(tmp_path / "bed", overwrite=True)


def test_an_unknown_regime_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'elicit'"):
        build(tmp_path / "bed", regime="illicit")


def test_a_moved_testbed_names_its_own_base_again(bed: Testbed, tmp_path: Path) -> None:
    shutil.move(bed.folder, tmp_path / "new")
    moved = build(tmp_path / "new", skills=SKILLS)
    assert moved.cached
    for adapter in moved.lora.values():
        config = json.loads((adapter / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(tmp_path / "new" / "base")
    assert build(tmp_path / "new", skills=SKILLS).manifest == moved.manifest


@pytest.mark.slow
def test_a_failure_in_one_specialist_stops_all_and_leaves_nothing(
    minute: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genepool.testbed import training

    def broken(*_: Any) -> None:
        raise InputError("no room", where="adapter")

    monkeypatch.setattr(training, "save_adapter", broken)
    with pytest.raises(InputError, match="no room"):
        build(tmp_path / "bed", skills=SKILLS)
    assert not any(tmp_path.iterdir())


# Trains the minute size in a process of its own, which kills itself in place of the n-th publication of a model.
_KILLED_BUILD = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_testbed_build import MINUTE, SKILLS
from genepool.testbed import build, training
from genepool.testbed.beds import text as text_bed
text_bed.schedule_for = lambda regime, *, tiny, skills: MINUTE
real, left = training.{function}, [{survives}]
def dying(*arguments):
    real(*arguments)
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
training.{function} = dying
build({folder!r}, skills=SKILLS)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "survives", "kept"),
    [("save_model", 0, []), ("save_model", 1, ["base"]), ("save_adapter", 0, ["base"])],
)
def test_a_killed_build_goes_on_with_what_was_finished(
    minute: None, tmp_path: Path, function: str, survives: int, kept: list[str]
) -> None:
    folder = tmp_path / "bed"
    code = _KILLED_BUILD.format(
        tests=str(Path(__file__).parent), function=function, survives=survives, folder=str(folder)
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not folder.exists()
    inodes = {name: (partial_path(folder) / name / "model.safetensors").stat().st_ino for name in kept}
    bed = build(folder, skills=SKILLS)
    assert not bed.cached
    assert {name: (folder / name / "model.safetensors").stat().st_ino for name in kept} == inodes
    assert not any(name.startswith(".") for name in os.listdir(folder))
    assert not partial_path(folder).exists()
    assert _hashes(folder) == _hashes(build(tmp_path / "undisturbed", skills=SKILLS).folder)


@pytest.mark.slow
def test_what_a_killed_build_of_other_settings_left_is_not_used(minute: None, tmp_path: Path) -> None:
    staging = partial_path(tmp_path / "bed")
    for name, text in [("base/model.safetensors", "junk"), (".records/base.json", "{}"), (".records/digest", "other")]:
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).write_text(text)
    bed = build(tmp_path / "bed", skills=SKILLS)
    assert _hashes(bed.folder) == _hashes(build(tmp_path / "undisturbed", skills=SKILLS).folder)


def _build_minute(folder: Path) -> bool:
    text_bed.schedule_for = lambda regime, *, tiny, skills: MINUTE  # type: ignore[assignment]
    return build(folder, skills=SKILLS).cached


@pytest.mark.slow
def test_two_processes_at_once_train_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        cached = pool.map(_build_minute, [tmp_path / "bed"] * 2, chunksize=1)
    assert sorted(cached) == [False, True]
    assert {path.name for path in tmp_path.iterdir()} == {"bed"}


@pytest.mark.slow
def test_a_lock_left_by_a_killed_process_is_no_obstacle(minute: None, tmp_path: Path) -> None:
    (tmp_path / ".bed.lock").touch()
    build(tmp_path / "bed", skills=SKILLS)
    assert {path.name for path in tmp_path.iterdir()} == {"bed"}


def test_waiting_ends_when_the_lock_is_given_back(tmp_path: Path) -> None:
    folder, order = tmp_path / "bed", []
    held = threading.Event()

    def other() -> None:
        with locked(folder, patience=None):
            held.set()
            released.wait()
            order.append("other")

    released = threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    released.set()
    with locked(folder, patience=None):
        order.append("this")
    thread.join()
    assert order == ["other", "this"]
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_prints_scores_and_one_json_object(minute: None, tmp_path: Path, cli: Callable[..., Any]) -> None:
    answer = cli("testbed", "build", tmp_path / "bed", "--skills", "reverse, mask", "--quiet")
    assert answer.code == 0, answer.err
    assert answer.err == ""
    assert "full/reverse" in answer.out
    answer = cli("testbed", "build", tmp_path / "bed", "--skills", "reverse,mask", "--json")
    payload = json.loads(answer.out)
    assert (answer.code, payload["schema"], payload["cached"]) == (0, 1, True)
    assert payload["lora"]["mask"] == str(tmp_path / "bed" / "lora" / "mask")


@pytest.mark.slow
def test_the_command_builds_by_its_seed_and_replaces_when_that_is_said(
    minute: None, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    call = ("testbed", "build", tmp_path / "bed", "--skills", "reverse", "--quiet", "--json")
    first = json.loads(cli(*call, "--seed", 3).out)
    assert first["manifest"]["settings"]["seed"] == 3
    refused = cli(*call, "--seed", 4)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "--overwrite" in refused.err
    assert json.loads((tmp_path / "bed" / "manifest.json").read_text()) == first["manifest"]
    second = json.loads(cli(*call, "--seed", 4, "--overwrite").out)
    assert (second["cached"], second["manifest"]["settings"]["seed"]) == (False, 4)
    weights = "base/model.safetensors"
    assert second["manifest"]["files"][weights] != first["manifest"]["files"][weights]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--skills", "revers"], "Did you mean 'reverse'?"),
        (["--skills", "reverse,reverse"], "is named twice"),
        (["--skills", ","], "no skill is named"),
        (["--regime", "acquired"], "Did you mean 'acquire'?"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_two(
    cli: Callable[..., Any], tmp_path: Path, arguments: list[str], said: str
) -> None:
    answer = cli("testbed", "build", tmp_path / "bed", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert said in answer.err
    assert not any(tmp_path.iterdir())


def test_the_package_needs_no_torch() -> None:
    code = "import sys, genepool.testbed; sys.exit(bool({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _greedy(model: Any, tokenizer: Any, rows: list[dict[str, str]]) -> float:
    right = 0
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        asked = tokenizer([row["prompt"] for row in part], return_tensors="pt", padding=True)
        made = model.generate(**asked, max_new_tokens=10)[:, asked["input_ids"].shape[1] :]
        answers = tokenizer.batch_decode(made, skip_special_tokens=True)
        right += sum(answer == row["answer"] for answer, row in zip(answers, part, strict=True))
    return right / len(rows)


def _rows(bed: Testbed, task: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (bed.tasks / task / "test.jsonl").read_text().splitlines()[:192]]


@pytest.mark.slow
def test_tiny_specialists_beat_the_base_by_25_points(tiny_testbed: Testbed) -> None:
    """Loaded as any user would load them, decoding greedily."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_testbed.base)
    for skill in tiny_testbed.full:
        rows = _rows(tiny_testbed, skill)
        base = AutoModelForCausalLM.from_pretrained(tiny_testbed.base)
        before = _greedy(base, tokenizer, rows)
        full = AutoModelForCausalLM.from_pretrained(tiny_testbed.full[skill])
        lora = PeftModel.from_pretrained(base, tiny_testbed.lora[skill])
        assert _greedy(full, tokenizer, rows) >= before + 0.25
        assert _greedy(lora, tokenizer, rows) >= before + 0.25


def test_the_scores_of_the_manifest_are_those_of_greedy_decoding(tiny_testbed: Testbed) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recorded = tiny_testbed.manifest["models"]["full/reverse"]
    model = AutoModelForCausalLM.from_pretrained(tiny_testbed.full["reverse"])
    tokenizer = AutoTokenizer.from_pretrained(tiny_testbed.full["reverse"])
    path = tiny_testbed.tasks / "generic" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()[: recorded["scored_items"]]]
    assert _greedy(model, tokenizer, rows) == pytest.approx(recorded["scores"]["generic"], abs=0.004)


def test_an_adapter_finds_its_base_by_itself(tiny_testbed: Testbed) -> None:
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained(tiny_testbed.lora["sort"])
    assert model.peft_config["default"].r == 8


@pytest.mark.slow
def test_tiny_built_elsewhere_has_the_same_bits(tiny_testbed: Testbed, tmp_path: Path) -> None:
    assert _hashes(build(tmp_path / "bed", tiny=True).folder) == _hashes(tiny_testbed.folder)


@pytest.mark.slow
def test_tiny_killed_halfway_ends_with_the_same_bits(tiny_testbed: Testbed, tmp_path: Path) -> None:
    folder = tmp_path / "bed"
    command = [sys.executable, "-m", "genepool", "testbed", "build", str(folder), "--tiny"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "specialists" in line:
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    assert not folder.exists()
    done = subprocess.run([*command, "--quiet", "--json"], capture_output=True, text=True, check=True)
    assert not json.loads(done.stdout)["cached"]
    assert _hashes(folder) == _hashes(tiny_testbed.folder)
