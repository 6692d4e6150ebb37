"""Classifiers, image classifiers and encoder-decoders from the command line: each stands wherever a model is named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_classifier, write_image_classifier, write_model, write_translator

from genepool.tasks import Ledger, load_tasks
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.models.sequence_classifier import SequenceClassifier
from genepool.weights import open_weights

Cli = Callable[..., Any]
LABELS = ("bad", "good")


def write_task(folder: Path, rows: list[dict[str, Any]], settings: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid", "test"):
        lines = [{**row, "id": f"{split}-{number}"} for number, row in enumerate(rows)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if settings:
        (folder / "task.yaml").write_text(settings)
    return folder


@pytest.fixture
def feelings(tmp_path: Path) -> Path:
    """A task whose answers are the labels, one with choices beside it, and nothing more: a folder of tasks."""
    texts = ["abc", "hg fe", "1+2=3", "a", "dcba", "bad:c", "fgh 12", "ee"]
    rows = [{"prompt": text, "answer": LABELS[number % 2]} for number, text in enumerate(texts)]
    write_task(tmp_path / "tasks" / "feelings", rows)
    choices = [{**row, "choices": list(LABELS)} for row in rows]
    write_task(tmp_path / "tasks" / "picks", choices, "metric: multiple_choice\n")
    return tmp_path / "tasks"


def write_study(folder: Path, base: Path, tasks: Path, **skills: Path) -> Path:
    """A search for the weights of some fine-tunes, six candidates long."""
    study = {
        "study": 1,
        "base": str(base),
        "skills": [{"name": name, "model": str(path)} for name, path in skills.items()],
        "method": "task_arithmetic",
        "search": {"weight": {"low": 0.0, "high": 1.0}},
        "tasks": {"dir": str(tasks)},
        "strategy": {"name": "random_search", "options": {"population": 3}},
        "budget": {"evaluations": 6},
    }
    (folder / "study.yaml").write_text(json.dumps(study))
    return folder / "study.yaml"


def mean_by_hand(folder: Path, tasks: Path) -> float:
    """The share of right labels as transformers says."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [json.loads(line) for line in (tasks / "feelings" / "test.jsonl").read_text().splitlines()]
    right = 0
    for row in rows:
        with torch.inference_mode():
            logits = model(**tokenizer(row["prompt"], return_tensors="pt", return_token_type_ids=False)).logits[0]
        right += model.config.id2label[int(logits.argmax())] == row["answer"]
    return right / len(rows)


# ---------------------------------------------------------------------- what works


def test_evaluate_asks_a_text_classifier_and_never_twice(cli: Cli, tmp_path: Path, feelings: Path) -> None:
    model = write_classifier(tmp_path / "bert", labels=LABELS, seed=1)
    first = cli("evaluate", model, "--tasks", feelings, "--json")
    assert first.code == 0, first.err
    results = {row["task"]: row for row in json.loads(first.out)["results"]}
    assert results["feelings"]["mean"] == results["picks"]["mean"] == mean_by_hand(model, feelings)
    assert json.loads(cli("evaluate", model, "--tasks", feelings, "--json").out)["evaluated"] == 0


def test_a_classifiers_outcome_has_its_label_and_how_sure_it_is(cli: Cli, tmp_path: Path, feelings: Path) -> None:
    model = write_classifier(tmp_path / "bert", labels=LABELS)
    ledger = tmp_path / "own.sqlite"
    assert cli("evaluate", model, "--tasks", feelings, "--ledger", ledger).code == 0
    (task,) = load_tasks(feelings, ["feelings"])
    with Ledger(ledger) as book:
        outcomes = book.find(
            open_weights(model).fingerprint(), task.asking, [example.key for example in task.examples("test")]
        )
    assert len(outcomes) == 8
    for outcome in outcomes.values():
        assert outcome.output in LABELS
        assert outcome.detail["logprob"] <= 0
        assert 0.5 <= outcome.detail["confidence"] <= 1


def test_types_other_than_float32_are_kept_apart_in_the_ledger(cli: Cli, tmp_path: Path, feelings: Path) -> None:
    model = write_classifier(tmp_path / "bert", labels=LABELS)
    call = ("evaluate", model, "--tasks", feelings, "--json")
    assert json.loads(cli(*call).out)["evaluated"] == 16
    assert json.loads(cli(*call, "--dtype", "bfloat16").out)["evaluated"] == 16
    assert json.loads(cli(*call, "--dtype", "bfloat16").out)["evaluated"] == 0
    assert json.loads(cli(*call, "--dtype", "float32").out)["evaluated"] == 0


def test_compare_and_profile_read_a_classifier(cli: Cli, tmp_path: Path, feelings: Path) -> None:
    one, two = (write_classifier(tmp_path / f"bert{seed}", labels=LABELS, seed=seed) for seed in (1, 2))
    compared = cli("compare", one, two, "--tasks", feelings, "--dtype", "float64", "--json")
    assert compared.code == 0, compared.err
    (comparison,) = json.loads(compared.out)["comparisons"]
    assert {row["task"] for row in comparison["tasks"]} == {"feelings", "picks"}
    profiled = cli("profile", one, "--tasks", feelings, "--device", "cpu", "--dtype", "float32", "--json")
    assert profiled.code == 0, profiled.err
    assert json.loads(profiled.out)["profiles"][0]["n"] == 16


def test_soup_averages_classifiers_into_one_that_is_asked_again(cli: Cli, tmp_path: Path, feelings: Path) -> None:
    models = [write_classifier(tmp_path / f"bert{seed}", labels=LABELS, seed=seed) for seed in (1, 2, 3)]
    out = tmp_path / "soup"
    made = cli("soup", *models, "--tasks", feelings, "--out", out, "--dtype", "float32", "--json")
    assert made.code == 0, made.err
    score = json.loads(made.out)["score"]
    again = cli("evaluate", out, "--tasks", feelings, "--split", "valid", "--json")
    means = [row["mean"] for row in json.loads(again.out)["results"]]
    assert sum(means) / len(means) == pytest.approx(score)


@pytest.mark.slow
def test_a_study_evolves_classifiers(cli: Cli, tmp_path: Path, feelings: Path) -> None:
    base, one, two = (write_classifier(tmp_path / f"bert{seed}", labels=LABELS, seed=seed) for seed in (1, 2, 3))
    study = write_study(tmp_path, base, feelings, one=one, two=two)
    done = cli("evolve", study, "--out", tmp_path / "run", "--device", "cpu", "--json")
    assert done.code == 0, done.err
    best = json.loads(done.out)
    assert best["evaluations"] == 6
    asked = cli("evaluate", tmp_path / "run" / "winner", "--tasks", feelings, "--json")
    assert {row["task"]: row["mean"] for row in json.loads(asked.out)["results"]} == pytest.approx(best["test"])
    assert json.loads(asked.out)["evaluated"] == 0


def test_a_skill_on_a_classifier_is_asked_as_the_fine_tune_is(cli: Cli, tmp_path: Path, feelings: Path) -> None:
    base, tuned = (write_classifier(tmp_path / f"bert{seed}", labels=LABELS, seed=seed) for seed in (1, 2))
    skill = tmp_path / "skill.safetensors"
    assert cli("skill", "extract", tuned, "--base", base, "--out", skill).code == 0
    answer = cli("evaluate", tuned, f"{base}+{skill}", "--tasks", feelings, "--json")
    assert answer.code == 0, answer.err
    rows = json.loads(answer.out)["results"]
    assert {row["task"]: row["mean"] for row in rows[:2]} == {row["task"]: row["mean"] for row in rows[2:]}


def test_an_encoder_decoder_is_evaluated_and_writes(cli: Cli, tmp_path: Path, feelings: Path) -> None:
    model = write_translator(tmp_path / "t5", seed=3)
    written = cli("generate", model, "--prompt", "ab=", "--max-new-tokens", 5, "--dtype", "float64", "--json")
    assert written.code == 0, written.err
    (answer,) = json.loads(written.out)["results"]
    rows = [{"prompt": "ab=", "answer": answer["output"]}]
    write_task(feelings / "own", rows, "max_new_tokens: 5\nstrip: false\n")
    asked = cli("evaluate", model, "--tasks", feelings, "--json")
    assert asked.code == 0, asked.err
    assert {row["task"]: row["mean"] for row in json.loads(asked.out)["results"]}["own"] == 1.0


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A task of images with the three classes as answers: a folder of tasks."""
    import numpy as np
    from PIL import Image

    folder = tmp_path / "seen" / "animals"
    (folder / "pictures").mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows = []
    for number in range(6):
        values = generator.integers(0, 256, (12, 9 + number, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / "pictures" / f"{number}.png")
        rows.append({"image": f"pictures/{number}.png", "answer": ("cat", "dog", "owl")[number % 3]})
    write_task(folder, rows, "input: image\n")
    return tmp_path / "seen"


def test_evaluate_shows_images_to_an_image_classifier(cli: Cli, tmp_path: Path, pictures: Path) -> None:
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = write_image_classifier(tmp_path / "vit", seed=2)
    asked = cli("evaluate", folder, "--tasks", pictures, "--json")
    assert asked.code == 0, asked.err
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    right = 0
    for number in range(6):
        image = Image.open(pictures / "animals" / "pictures" / f"{number}.png").convert("RGB")
        with torch.inference_mode():
            logits = model(**processor(images=image, return_tensors="pt")).logits[0]
        right += model.config.id2label[int(logits.argmax())] == ("cat", "dog", "owl")[number % 3]
    assert json.loads(asked.out)["results"][0]["mean"] == pytest.approx(right / 6)
    again = cli("soup", folder, write_image_classifier(tmp_path / "other", seed=3), "--tasks", pictures,
                "--out", tmp_path / "soup")  # fmt: skip
    assert again.code == 0, again.err
    assert cli("evaluate", tmp_path / "soup", "--tasks", pictures).code == 0


def test_an_image_is_known_by_its_content(tmp_path: Path, pictures: Path) -> None:
    (before,) = load_tasks(pictures)
    keys = [example.key for example in before.examples("test")]
    assert len(set(keys)) == 6
    seen = pictures / "animals" / "pictures"
    (seen / "0.png").write_bytes((seen / "3.png").read_bytes())
    (after,) = load_tasks(pictures)
    changed = [example.key for example in after.examples("test")]
    assert changed[0] != keys[0]
    assert changed[1:] == keys[1:]
    assert changed[0] == keys[3]


# ---------------------------------------------------------------------- what is refused


def refused(answer: Any, *said: str) -> None:
    """One line, exit code 2."""
    assert answer.code == 2, answer.err
    errors = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert all(word in errors[0] for word in said), errors[0]
    assert "Traceback" not in answer.err


def test_a_classifier_cannot_be_made_to_write(cli: Cli, tmp_path: Path, feelings: Path) -> None:
    model = write_classifier(tmp_path / "bert", labels=LABELS)
    refused(cli("generate", model, "--prompt", "ab"), "a text classifier cannot generate text", str(model))
    write_task(tmp_path / "sums" / "sums", [{"prompt": "1+1=", "answer": "2"}])
    refused(cli("evaluate", model, "--tasks", tmp_path / "sums"), "no answer of the task is one (got '2')", "bad, good")
    write_task(tmp_path / "odd" / "odd", [{"prompt": "a", "answer": "good", "choices": ["good", "ugly"]}],
               "metric: multiple_choice\n")  # fmt: skip
    refused(cli("evaluate", model, "--tasks", tmp_path / "odd"), "'ugly' is none of its classes", "bad, good")


def test_a_classifier_is_not_sampled(cli: Cli, tmp_path: Path, feelings: Path) -> None:
    model = write_classifier(tmp_path / "bert", labels=LABELS)
    refused(cli("measure", "passes", model, "--tasks", feelings), "a text classifier gives the same answer every time")
    models = [write_classifier(tmp_path / f"bert{seed}", labels=LABELS, seed=seed) for seed in (1, 2, 3)]
    refused(cli("measure", "jump", *models, "--tasks", feelings), "no token-level details")


def test_images_and_texts_are_not_mistaken_for_each_other(
    cli: Cli, tmp_path: Path, feelings: Path, pictures: Path
) -> None:
    text, image, bert = (write(tmp_path / name) for name, write in (
        ("llama", write_model), ("vit", write_image_classifier), ("bert", write_classifier)))  # fmt: skip
    for reader in (text, bert):
        refused(cli("evaluate", reader, "--tasks", pictures), "'animals' shows images", "reads texts", str(reader))
    refused(cli("evaluate", image, "--tasks", feelings), "shows texts", "an image classifier reads images")
    study = write_study(tmp_path, image, feelings, one=image, two=write_image_classifier(tmp_path / "vit2", seed=1))
    refused(cli("evolve", study, "--out", tmp_path / "run"), "shows texts")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"image": "none.png", "answer": "cat"}, "there is no image 'none.png'"),
        ({"image": "../secret.png", "answer": "cat"}, "outside the task's folder"),
        ({"image": "/etc/hostname", "answer": "cat"}, "outside the task's folder"),
        ({"image": "link.png", "answer": "cat"}, "outside the task's folder"),
        ({"image": "pictures", "answer": "cat"}, "there is no image"),
        ({"image": "text.png", "answer": "cat"}, "not an image"),
        ({"image": "drawing.eps", "answer": "cat"}, "not an image"),
        ({"image": "huge.png", "answer": "cat"}, "is too large"),
        ({"image": 7, "answer": "cat"}, "`image` must be the path of a file"),
        ({"image": "a\x00b", "answer": "cat"}, "there is no image"),
        ({"prompt": "cat?", "answer": "cat"}, "no `image`"),
    ],
)
def test_a_wrong_image_is_named_with_its_line(
    cli: Cli, tmp_path: Path, pictures: Path, row: dict[str, Any], said: str
) -> None:
    import struct
    import zlib

    folder = pictures / "animals"
    (tmp_path / "seen" / "secret.png").write_bytes((folder / "pictures" / "0.png").read_bytes())
    (folder / "link.png").symlink_to(tmp_path / "seen" / "secret.png")
    (folder / "text.png").write_text("no picture")
    (folder / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    (folder / "huge.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
            for chunk in (header, b"IDAT" + zlib.compress(b"\0" * 64))
        )
    )
    (folder / "test.jsonl").write_text(json.dumps(row) + "\n")
    model = write_image_classifier(tmp_path / "vit")
    refused(cli("evaluate", model, "--tasks", pictures), said, "test.jsonl:1")


def test_a_damaged_image_is_named(cli: Cli, tmp_path: Path, pictures: Path) -> None:
    picture = pictures / "animals" / "pictures" / "2.png"
    picture.write_bytes(picture.read_bytes()[:80])
    refused(cli("evaluate", write_image_classifier(tmp_path / "vit"), "--tasks", pictures), "damaged", "2.png")


def test_settings_of_prompts_say_nothing_of_images(cli: Cli, tmp_path: Path, pictures: Path) -> None:
    (pictures / "animals" / "task.yaml").write_text("input: image\nprefix: 'Look: '\n")
    refused(cli("evaluate", write_image_classifier(tmp_path / "vit"), "--tasks", pictures), "prefix", "task.yaml")
    (pictures / "animals" / "task.yaml").write_text("input: sound\n")
    refused(cli("evaluate", write_image_classifier(tmp_path / "vit2"), "--tasks", pictures), "input", "task.yaml")


def test_an_image_in_a_task_of_texts_is_refused(cli: Cli, tmp_path: Path) -> None:
    tasks = write_task(tmp_path / "t" / "t", [{"prompt": "a", "image": "a.png", "answer": "b"}]).parent
    refused(cli("evaluate", write_model(tmp_path / "m"), "--tasks", tasks), "input: image", "jsonl:1")


def test_a_config_without_a_known_architecture_is_refused(cli: Cli, tmp_path: Path, feelings: Path) -> None:
    model = write_classifier(tmp_path / "bert", labels=LABELS)
    config = json.loads((model / "config.json").read_text())
    for change, said in (
        (
            {"architectures": ["NoSuchForSequenceClassification"], "model_type": "no-such"},
            "built as a text classifier",
        ),
        ({"architectures": ["NoSuch"], "model_type": "no-such"}, "cannot be built as a causal language model"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "id2label names 3 classes"),
    ):
        (model / "config.json").write_text(json.dumps({**config, **change}))
        refused(cli("evaluate", model, "--tasks", feelings), said, str(model))


# ---------------------------------------------------------------------- devices and types


# Every command that asks a model, with names of nothing that is there.
ASKING = [
    ["evaluate", "none", "--tasks", "none"],
    ["compare", "none", "none", "--tasks", "none"],
    ["profile", "none", "--tasks", "none"],
    ["soup", "none", "--tasks", "none", "--out", "out"],
    ["generate", "none", "--prompt", "a"],
    ["measure", "transfer", "none", "none", "--tasks", "none"],
    ["measure", "knowledge", "none", "--tasks", "none"],
    ["measure", "mix", "none", "--tasks", "none"],
    ["measure", "consistency", "none", "--tasks", "none"],
    ["measure", "jump", "none", "--tasks", "none"],
    ["measure", "passes", "none", "--tasks", "none"],
    ["measure", "continual", "none", "--tasks", "none"],
    ["skill", "compress", "none", "--size", "1MB", "--out", "out", "--base", "none", "--calibrate", "none"],
    ["library", "search", "--base", "none", "--tasks", "none"],
]
ELSEWHERE = [
    ["evolve", "none", "--out", "out"],
    ["skill", "localise", "none", "--base", "none", "--tasks", "none", "--out", "out"],
    ["merge", "none", "out", "--as-lora", "4"],
]


@pytest.mark.parametrize("call", [*ASKING, *ELSEWHERE], ids=" ".join)
def test_a_device_that_is_not_there_is_told_before_anything_is_opened(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(cli(*call, "--device", "abacus"), "got 'abacus', which cannot be used here", "--device")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("call", ASKING, ids=" ".join)
def test_a_type_that_nothing_computes_in_is_told_before_anything_is_opened(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(cli(*call, "--dtype", "int8"), "got 'int8', expected a known type", "--dtype", "bfloat16")
    assert not any(tmp_path.iterdir())


def test_every_command_that_asks_a_model_has_both_options() -> None:
    """A command with --device asks a model: it has --dtype too, where that is not a study's or what is stored."""
    import typer

    from genepool.cli.main import build_app

    with_device, with_dtype = set(), set()

    def walk(command: Any, name: str) -> None:
        for sub, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{name} {sub}".strip())
        opts = {opt for param in command.params for opt in param.opts}
        if "--device" in opts:
            with_device.add(name)
        if "--dtype" in opts:
            with_dtype.add(name)

    walk(typer.main.get_command(build_app()), "")
    assert with_device - with_dtype <= {"merge", "verify-run"}
    assert len(with_device) >= 17


def test_opening_a_model_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    folders = [str(write(tmp_path / write.__name__)) for write in (write_classifier, write_translator, write_model)]
    code = (
        "import sys; from genepool.tasks import open_model; kinds = [open_model(name).kind for name in sys.argv[1:]];"
        "sys.exit(' '.join({'torch', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every device and type that a model is loaded with from now on, although all of them compute on the processor."""
    seen: list[tuple[str, str]] = []

    def watch(kind: Any) -> None:
        load = kind.load

        def watched(weights: Any, *, device: str = "cpu", dtype: str = "float32") -> Any:
            seen.append((device, dtype))
            return load(weights, device="cpu", dtype=dtype)

        monkeypatch.setattr(kind, "load", watched)

    watch(SequenceClassifier)
    watch(LanguageModel)
    for module in ("genepool.devices", "genepool.tasks.evaluate"):
        monkeypatch.setattr(sys.modules[module], "check_device", lambda device: None)
    return seen


@pytest.mark.slow
def test_device_and_type_reach_the_models(
    cli: Cli, tmp_path: Path, feelings: Path, loaded: list[tuple[str, str]]
) -> None:
    one, two = (write_classifier(tmp_path / f"bert{seed}", labels=LABELS, seed=seed) for seed in (1, 2))
    tasks = ("--tasks", feelings)
    there = ("--device", "cuda:7", "--dtype", "bfloat16")
    for call in (
        ("evaluate", one, *tasks), ("compare", one, two, *tasks), ("profile", two, *tasks),
        ("soup", one, two, *tasks, "--out", tmp_path / "soup"), ("measure", "transfer", one, two, *tasks),
    ):  # fmt: skip
        assert cli(*call, *there, "--ledger", tmp_path / f"{call[0]}.sqlite").code == 0
        assert set(loaded) == {("cuda:7", "bfloat16")}, call
        loaded.clear()
    study = write_study(tmp_path, one, feelings, one=one, two=two)
    assert cli("evolve", study, "--out", tmp_path / "run", "--device", "cuda:7").code == 0
    assert set(loaded) == {("cuda:7", "float32")}


@pytest.mark.slow
def test_device_and_type_reach_the_language_models_that_skills_are_put_on(
    cli: Cli, tmp_path: Path, loaded: list[tuple[str, str]]
) -> None:
    base, tuned = (write_model(tmp_path / f"llama{seed}", seed=seed) for seed in (1, 2))
    rows = [{"prompt": f"{number}+1=", "answer": str(number + 1)} for number in range(6)]
    tasks, skill = write_task(tmp_path / "sums", rows), tmp_path / "skill.safetensors"
    library, there = ("--library", tmp_path / "library"), ("--device", "cuda:7", "--dtype", "float64")
    for call in (
        ("skill", "extract", tuned, "--base", base, "--out", skill),
        ("library", "init", *library),
        ("library", "add", skill, *library),
    ):
        assert cli(*call).code == 0
    cli("skill", "localise", skill, "--base", base, "--tasks", tasks, "--out", tmp_path / "o.safetensors",
        "--device", "cuda:7")  # fmt: skip
    assert loaded == [("cuda:7", "float32")]
    for call in (
        ("generate", base, "--prompt", "a", "--max-new-tokens", 2),
        ("measure", "passes", base, "--tasks", tasks, "--draws", 2),
        ("skill", "compress", skill, "--size", "9KB", "--base", base, "--calibrate", tasks,
         "--out", tmp_path / "small.safetensors"),
        ("library", "search", "--tasks", tasks, "--base", base, *library),
    ):  # fmt: skip
        loaded.clear()
        done = cli(*call, *there)
        assert done.code == 0, done.err
        assert set(loaded) == {("cuda:7", "float64")}, call


@pytest.mark.parametrize("write", [write_model, write_classifier, write_translator])
def test_a_token_that_the_embedding_has_no_row_for_is_told(
    write: Callable[..., Path], tmp_path: Path, cli: Cli
) -> None:
    """A tokenizer may know more than its model, as long as no text has such a token."""
    model = write(tmp_path / "model", vocab_size=20)
    for prompt, code in (("abc", 0), ("ab=9", 2)):
        answer = "good" if write is write_classifier else "a"
        rows = [{"prompt": prompt, "answer": answer}]
        tasks = write_task(tmp_path / prompt / "one", rows, "max_new_tokens: 2\n").parent
        told = cli("evaluate", model, "--tasks", tasks, "-q")
        assert told.code == code, told.err
        if code:
            assert f"{model}: its embedding has 20 rows, and a text has the token 23 ('9')" in told.err
