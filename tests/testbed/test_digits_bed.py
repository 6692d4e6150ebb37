"""The digits testbed: tasks that rearrange, splits that never share an image, folders that merge like any other."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.merging import Recipe, plan_merge
from genepool.tasks import Example, Ledger, OutcomeTable, evaluate, load_tasks
from genepool.tasks.models.digits import PIXELS, DigitsModel, encode_pixels
from genepool.tasks.models.digits.network import DigitsTransformer, Shape
from genepool.testbed import Testbed, build
from genepool.testbed.digits import builder
from genepool.testbed.digits.builder import DigitsSchedule
from genepool.testbed.digits.images import TrainingImages, load_images, split_of
from genepool.testbed.digits.model import new_base
from genepool.testbed.digits.rearranging import AS_IT_IS, DEFAULT_TASKS, TASKS, choose
from genepool.testbed.folder import hash_files
from genepool.testbed.schedule import Phase
from genepool.weights import infer_roles, open_weights, write_checkpoint

pytest.importorskip("sklearn")
MINUTE = DigitsSchedule(8, 2, 2, 12, base=Phase(4, 16, 1e-3, warmup=1), full=Phase(3, 8, 1e-3, replay=0.25))
SKILLS = ("mirror", "invert", "shuffle")
images = st.lists(st.integers(0, 16), min_size=PIXELS, max_size=PIXELS)


@pytest.fixture
def minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every build one that is too small to learn anything."""
    monkeypatch.setattr(builder, "schedule_for", lambda *, tiny, tasks: MINUTE)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a testbed of that size."""
    folder = tmp_path_factory.mktemp("digits") / "bed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "schedule_for", lambda *, tiny, tasks: MINUTE)
        build(folder, bed="digits", skills=SKILLS)
    return folder


@pytest.fixture
def bed(built: Path, minute: None, tmp_path: Path) -> Testbed:
    """A copy of it of one's own, which may be changed."""
    return build(shutil.copytree(built, tmp_path / "bed"), bed="digits", skills=SKILLS)


def ask(models: list[Any], tasks: list[Any], **options: Any) -> OutcomeTable:
    """Asked through a ledger of its own, where none is given."""
    with Ledger(":memory:") as ledger:
        return evaluate(models, tasks, **{"ledger": ledger, **options})


# ---------------------------------------------------------------------- tasks and images


@pytest.mark.parametrize("name", DEFAULT_TASKS)
@given(pixels=images)
def test_a_task_moves_and_negates_pixels_and_loses_none(name: str, pixels: list[int]) -> None:
    task = TASKS[name]
    seen = task.apply(pixels)
    back = [16 - value if at in task.negated else value for at, value in enumerate(seen)]
    assert sorted(task.origin) == list(range(PIXELS))
    assert [back[task.origin.index(at)] for at in range(PIXELS)] == pixels


def test_tasks_do_what_they_say() -> None:
    picture = list(range(PIXELS))
    rows = {name: TASKS[name].apply([value % 17 for value in picture]) for name in TASKS}
    assert rows["mirror"][:8] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert rows["transpose"][:3] == [0, 8, 16]
    # A quarter turn to the left: the last column becomes the first row.
    assert rows["rotate"][:3] == [7, 15, 23 % 17]
    assert rows["invert"][:3] == [16, 15, 14]
    assert rows["checker"][:4] == [0, 15, 2, 13]
    assert rows["halves"][:8] == [4, 5, 6, 7, 0, 1, 2, 3]
    assert rows["comb"][8:11] == [32 % 17, 33 % 17, 34 % 17]


def test_no_task_is_another_or_the_half_turn() -> None:
    whole = {name: (task.origin, task.negated) for name, task in TASKS.items()} | {
        "as it is": (AS_IT_IS.origin, AS_IT_IS.negated),
        "half turn": (tuple(reversed(range(PIXELS))), frozenset()),
    }
    assert len(set(whole.values())) == len(whole)
    assert sorted(task.misreading for task in TASKS.values()) == list(range(1, 9))


def test_the_shuffle_never_changes() -> None:
    # Written down: another order would be another task under the same name.
    assert TASKS["shuffle"].origin[:4] == (42, 61, 58, 1)


def test_no_image_is_in_two_splits() -> None:
    splits = {split: set(found.pixels) for split, found in load_images().items()}
    assert sum(len(found.pixels) for found in load_images().values()) == 1797
    assert not splits["train"] & splits["valid"]
    assert not splits["train"] & splits["test"]
    assert not splits["valid"] & splits["test"]
    for split, found in load_images().items():
        assert {split_of(row) for row in found.pixels} == {split}
        assert set(found.digits) == set(range(10))


def test_without_scikit_learn_the_error_says_how_to_get_it(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_images.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    answer = cli("testbed", "build", tmp_path / "bed", "--bed", "digits")
    load_images.cache_clear()
    assert answer.code == 2
    assert 'pip install "genepool[digits]"' in answer.err
    assert not any(tmp_path.glob("*bed*"))


# ---------------------------------------------------------------------- lessons


def test_half_of_the_bases_lessons_in_a_task_are_wrong_in_the_tasks_own_way() -> None:
    lessons = TrainingImages(choose(SKILLS), 0)
    told = Counter[tuple[int, bool]]()
    for step in range(60):
        kinds, wrong = lessons._turns(step, 20, 6, range(3))
        told.update(zip(kinds, wrong, strict=True))
    assert told == {(0, False): 140, (0, True): 140, (1, False): 140, (1, True): 140, (2, False): 140, (2, True): 140,
                    (3, False): 360}  # fmt: skip


def test_lessons_are_images_of_the_training_split_nearly_as_they_were() -> None:
    lessons = TrainingImages(choose(["invert"]), 3)
    pixels, digits = lessons.specialist_batches("invert", 0.0)(0, 32)
    train = torch.tensor(load_images()["train"].pixels) / 16
    # Unmoved ones are within the grain of an image that shows the digit the lesson tells.
    distance, nearest = torch.cdist(1 - pixels, train).min(dim=1)
    unmoved = distance < 0.5
    assert 3 <= int(unmoved.sum()) <= 13
    told = torch.tensor(load_images()["train"].digits)[nearest]
    assert torch.equal(told[unmoved], digits[unmoved])


def test_a_specialist_replays_every_task_but_its_own() -> None:
    lessons = TrainingImages(choose(SKILLS), 0)
    seen: list[list[int]] = []
    lessons._lessons = lambda kinds, wrong, generator: seen.append(list(kinds))  # type: ignore[assignment]
    lessons.specialist_batches("invert", 0.3)(0, 40)
    assert Counter(seen[0]) == {1: 28, 3: 5, 0: 4, 2: 3}


def test_lessons_belong_to_the_seed_and_the_step() -> None:
    one, two = TrainingImages(choose(SKILLS), 1), TrainingImages(choose(SKILLS), 1)
    two.base_batch(0, 8)
    assert all(map(torch.equal, one.base_batch(5, 8), two.base_batch(5, 8)))
    assert not torch.equal(one.base_batch(5, 8)[0], one.base_batch(6, 8)[0])
    assert not torch.equal(one.base_batch(5, 8)[0], TrainingImages(choose(SKILLS), 2).base_batch(5, 8)[0])


# ---------------------------------------------------------------------- folders


def test_a_finished_folder_is_as_the_text_testbeds_without_adapters(bed: Testbed, tmp_path: Path) -> None:
    assert {path.name for path in bed.folder.iterdir()} == {"base", "full", "tasks", "manifest.json"}
    assert set(bed.full) == set(SKILLS)
    assert bed.lora == {}
    for model in [bed.base, *bed.full.values()]:
        assert {path.name for path in model.iterdir()} == {"config.json", "model.safetensors"}
    assert {path.name for path in bed.tasks.iterdir()} == {*SKILLS, "generic"}
    rows = [json.loads(line) for line in (bed.tasks / "invert" / "test.jsonl").read_text().splitlines()]
    assert set(rows[0]) == {"id", "prompt", "answer"}
    assert len(rows) == bed.manifest["tasks"]["invert"]["test"]
    upright = load_images()["test"]
    assert [16 - int(value) for value in rows[7]["prompt"].split()] == list(upright.pixels[7])
    assert bed.manifest["files"] == {
        name: value for name, value in hash_files(bed.folder).items() if name != "manifest.json"
    }


def test_layers_and_roles_are_found(bed: Testbed) -> None:
    weights = open_weights(bed.base)
    roles = infer_roles({name: weights.info(name) for name in weights.names()})
    assert (roles["blocks.1.attn.qkv.weight"].part, roles["blocks.1.attn.qkv.weight"].layer) == ("attention", 1)
    assert (roles["blocks.0.mlp.fc2.weight"].part, roles["blocks.0.mlp.fc2.weight"].layer) == ("mlp", 0)
    assert roles["blocks.0.norm1.weight"].part == "norm"
    assert roles["head.weight"].part == "head"
    assert roles["patch_embed.weight"].part == "embedding"


@pytest.mark.slow
def test_same_seed_same_bits_other_seed_other_bits(minute: None, bed: Testbed, tmp_path: Path) -> None:
    torch.manual_seed(99)  # the caller's generator has no say
    again = build(tmp_path / "again", bed="digits", skills=SKILLS)
    other = build(tmp_path / "other", bed="digits", skills=SKILLS, seed=1)
    files = [hash_files(each.folder) for each in (bed, again, other)]
    for found in files:
        del found["manifest.json"]
    assert files[0] == files[1]
    assert files[0]["base/model.safetensors"] != files[2]["base/model.safetensors"]
    assert files[0]["tasks/mirror/test.jsonl"] == files[2]["tasks/mirror/test.jsonl"]


def test_the_same_settings_again_touch_nothing_and_others_are_refused(minute: None, bed: Testbed) -> None:
    assert build(bed.folder, bed="digits", skills=SKILLS).cached
    with pytest.raises(InputError, match="built with other settings"):
        build(bed.folder, bed="digits", skills=SKILLS, seed=4)
    with pytest.raises(InputError, match="built with other settings"):
        build(bed.folder)


def test_a_killed_build_goes_on_with_what_was_finished(
    minute: None, bed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a SIGKILL leaves is a staging folder with some pieces; the rest must come out the same."""
    whole = hash_files(bed.folder)
    left: list[Path] = []
    real = builder.train

    def dying(model: DigitsTransformer, *arguments: Any) -> None:
        if len(left) == 2:
            raise SystemExit
        left.append(tmp_path)
        real(model, *arguments)

    monkeypatch.setattr(builder, "train", dying)
    # Errors clean up after themselves; a kill does not, so the clean-up is what is left out.
    monkeypatch.setattr("genepool.staging.shutil.rmtree", lambda *_, **__: None)
    with pytest.raises(SystemExit):
        build(tmp_path / "killed", bed="digits", skills=SKILLS)
    monkeypatch.undo()
    monkeypatch.setattr(builder, "schedule_for", lambda *, tiny, tasks: MINUTE)
    trained: list[str] = []
    monkeypatch.setattr(builder, "train", lambda *arguments: (trained.append("one"), real(*arguments)))
    again = build(tmp_path / "killed", bed="digits", skills=SKILLS)
    assert len(trained) == 2
    files = hash_files(again.folder)
    del files["manifest.json"], whole["manifest.json"]
    assert files == whole


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bed": "digit"}, "no kind of testbed 'digit'"),
        ({"bed": "digits", "skills": ["mirrors"]}, "Did you mean 'mirror'"),
        ({"bed": "digits", "skills": ["mirror", "mirror"]}, "is named twice"),
        ({"bed": "digits", "skills": []}, "no task is named"),
        ({"bed": "digits", "regime": "acquire"}, "one regime"),
    ],
)
def test_wrong_settings_are_told_and_leave_nothing(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        build(tmp_path / "bed", **options)
    assert said in str(raised.value)
    assert not any(tmp_path.iterdir())


# ---------------------------------------------------------------------- asking


@pytest.mark.slow
def test_a_merge_in_memory_and_one_on_the_disk_answer_alike(
    bed: Testbed, cli: Callable[..., Any], tmp_path: Path
) -> None:
    models = [str(path) for path in bed.full.values()]
    recipe = Recipe(method="ties", base=str(bed.base), models=models)
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe.to_dict()))
    assert cli("merge", tmp_path / "recipe.yaml", tmp_path / "out").code == 0
    tasks = load_tasks(bed.tasks)
    merged = plan_merge(recipe).weights()
    table = ask([merged, tmp_path / "out"], tasks)
    memory, disk = table.models
    for task in table.tasks:
        assert table.outcomes(memory, task) == table.outcomes(disk, task)
        assert len(table.scores(memory, task)) == len(table.examples(task)) == len(load_images()["test"].digits)


def test_outcomes_are_those_of_the_model(bed: Testbed) -> None:
    tasks = load_tasks(bed.tasks, ["mirror"])
    table = ask([bed.full["mirror"]], tasks, limit=20)
    model = DigitsModel.load(open_weights(bed.full["mirror"])).model
    examples = table.examples("mirror")
    with torch.no_grad():
        logits = model(torch.stack([encode_pixels(example.prompt) for example in examples]))
    name = table.models[0]
    assert table.outputs(name, "mirror") == [str(digit) for digit in logits.argmax(-1).tolist()]
    right = torch.tensor([int(example.answer) for example in examples])
    assert table.scores(name, "mirror").tolist() == (logits.argmax(-1) == right).double().tolist()
    told = [outcome.detail["logprob"] for outcome in table.outcomes(name, "mirror")]
    expected = logits.log_softmax(-1).gather(1, right[:, None])[:, 0].tolist()
    assert told == pytest.approx(expected, abs=1e-5)


def test_the_manifests_scores_are_those_of_asking(bed: Testbed) -> None:
    table = ask([bed.full["invert"]], load_tasks(bed.tasks))
    for task, score in bed.manifest["models"]["full/invert"]["scores"].items():
        assert table.mean(table.models[0], task) == pytest.approx(score, abs=1e-4)


def test_what_the_ledger_knows_is_not_asked_again(bed: Testbed, tmp_path: Path) -> None:
    tasks = load_tasks(bed.tasks)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        first = ask([bed.base], tasks, ledger=ledger)
        second = ask([bed.base], tasks, ledger=ledger)
    assert first.evaluated > 0
    assert second.evaluated == 0
    for task in first.tasks:
        assert first.scores(first.models[0], task).tolist() == second.scores(second.models[0], task).tolist()


def test_other_models_are_refused(bed: Testbed, tmp_path: Path, save_model: Callable[..., Path]) -> None:
    tasks = load_tasks(bed.tasks)
    with pytest.raises(InputError, match="is not a model of the digits testbed"):
        DigitsModel.load(open_weights(save_model("llama", {"w": torch.zeros(2, 2)})))
    for key, value in (("hidden_size", 10**9), ("num_hidden_layers", "2"), ("num_attention_heads", 3)):
        odd = tmp_path / key
        shutil.copytree(bed.base, odd)
        config = json.loads((odd / "config.json").read_text())
        (odd / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(InputError, match="config.json"):
            ask([odd], tasks)
    deeper = DigitsTransformer(Shape(8, 3, 2, 12))
    shutil.copytree(bed.base, tmp_path / "deeper")
    (tmp_path / "deeper" / "config.json").write_text(json.dumps(deeper.shape.config()))
    with pytest.raises(InputError, match=r"lacks the tensor blocks\.2"):
        ask([tmp_path / "deeper"], tasks)


@pytest.mark.parametrize("prompt", ["", "1 2 3", " ".join(["17"] * 64), " ".join(["-1"] * 64), " ".join(["x"] * 64)])
def test_a_prompt_that_is_no_image_is_refused(prompt: str) -> None:
    with pytest.raises(InputError, match="expected an image"):
        encode_pixels(prompt)


def test_a_model_is_the_same_after_writing_and_reading(tmp_path: Path, bed: Testbed) -> None:
    pixels = torch.rand(5, PIXELS, generator=torch.Generator().manual_seed(0))
    weights = open_weights(bed.full["shuffle"])
    write_checkpoint(weights, tmp_path / "copy")
    copy = open_weights(tmp_path / "copy")
    one, two = (DigitsModel.load(each).model(pixels) for each in (weights, copy))
    assert torch.equal(one, two)
    assert copy.fingerprint() == weights.fingerprint()


@pytest.mark.slow
def test_every_command_that_asks_takes_a_digits_model(
    cli: Callable[..., Any], bed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = ("--tasks", bed.tasks)
    models = list(bed.full.values())
    asked = cli("evaluate", bed.base, models[0], *tasks, "--json")
    assert asked.code == 0, asked.err
    found = {(row["model"], row["task"]): row["mean"] for row in json.loads(asked.out)["results"]}
    for task, score in bed.manifest["models"]["base"]["scores"].items():
        assert found[str(bed.base), task] == pytest.approx(score, abs=1e-4)
    assert cli("compare", bed.base, models[0], *tasks).code == 0
    assert cli("profile", bed.base, *tasks, "--limit", 20).code == 0
    assert cli("soup", *models, "--base", bed.base, *tasks, "--limit", 20, "--out", tmp_path / "soup").code == 0
    refused = cli("generate", bed.base, "--prompt", "0 1 2")
    assert refused.code == 2
    assert "a model of the digits testbed cannot generate text" in refused.err
    study = {
        "study": 1,
        "base": str(bed.base),
        "skills": [{"name": name, "model": str(path)} for name, path in bed.full.items()],
        "method": "task_arithmetic",
        "search": {"lambda": {"low": 0.0, "high": 1.0}},
        "tasks": {"dir": str(bed.tasks), "valid": 30, "test": 30},
        "strategy": {"name": "random_search", "options": {"population": 2}},
        "budget": {"evaluations": 4},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    done = cli("evolve", tmp_path / "study.yaml", "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["evaluations"] == 4


def test_outcomes_kept_by_earlier_versions_are_found(bed: Testbed, tmp_path: Path) -> None:
    """The digest of how the digits are asked, and an example's key, as they were before models had kinds."""
    (task,) = load_tasks(bed.tasks, ["mirror"])
    assert task.asking == "4daea8b1dd1ebc57143fb11b1d780b06cb9a051fc5f2b8082b9695a597669848"
    prompt = " ".join(["0"] * 64)
    assert Example("x", prompt, ("3",)).key == "0680e7cc5aff4c6cbf2f501ab6e236265947f5750d3bce3f71193a91f4ee7996"


def test_every_weight_starts_from_its_own_seed() -> None:
    one, two = new_base(Shape(8, 2, 2, 12), 0), new_base(Shape(8, 3, 2, 12), 0)
    small, large = dict(one.named_parameters()), dict(two.named_parameters())
    assert all(torch.equal(value, large[name]) for name, value in small.items())


# ---------------------------------------------------------------------- real skills


@pytest.mark.slow
def test_tiny_specialists_beat_the_base_and_an_average_of_them_falls_short(tmp_path: Path) -> None:
    bed = build(tmp_path / "bed", bed="digits", tiny=True)
    scores = {name: model["scores"] for name, model in bed.manifest["models"].items()}
    for task in TASKS:
        assert scores[f"full/{task}"][task] >= scores["base"][task] + 0.25
        assert scores[f"full/{task}"]["generic"] >= 0.8
    models = [str(path) for path in bed.full.values()]
    average = plan_merge(Recipe(method="linear", models=models)).weights()
    table = ask([average], load_tasks(bed.tasks, list(TASKS)))
    mean = sum(table.mean(table.models[0], task) for task in TASKS) / len(TASKS)
    experts = sum(scores[f"full/{task}"][task] for task in TASKS) / len(TASKS)
    base = sum(scores["base"][task] for task in TASKS) / len(TASKS)
    assert base + 0.05 < mean < experts - 0.1
