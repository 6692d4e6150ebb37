"""What `genepool train` learns from, such as lone files and conversations, and the kinds of models it teaches."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import result_bytes, rows, told

from genepool.training import run as running


@pytest.mark.slow
def test_several_tasks_and_a_lone_file_are_learned_from(
    train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    lines = [json.dumps({"prompt": f"x{one}{two}=", "answer": one}) for one in "abcdefgh" for two in "abcdefgh"]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    answer = train("run", tasks=[tmp_path / "mine.jsonl", small_world / "tasks" / "grade"])
    assert answer.code == 0, answer.err
    found = told(tmp_path / "run")
    assert [row["task"] for row in found["target"]] == ["mine", "grade"]
    assert found["target"][0]["n"] + found["examples"]["train"] + found["examples"]["valid"] < 64 + 48 + 12 + 1


@pytest.mark.slow
def test_packed_examples_see_themselves_alone(train: Callable[..., Any], tmp_path: Path) -> None:
    for name, options in {"apart": [], "packed": ["--pack"]}.items():
        assert train(name, "--steps", 5, *options).code == 0
    losses = [
        [row[0] for row in rows(tmp_path / name, "SELECT loss FROM examples ORDER BY step, place")]
        for name in ("apart", "packed")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4, abs=1e-5)


TEMPLATE = (
    "{% for m in messages %}{{ '+' if m['role'] == 'user' else '.' }}{{ m['content'] }}{{ eos_token if m['role'] == "
    "'assistant' else '' }}{% endfor %}{% if add_generation_prompt %}.{% endif %}"
)


@pytest.mark.slow
def test_of_a_conversation_the_assistants_words_alone_are_learned(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(small_world / "base", tmp_path / "base")
    (base / "chat_template.jinja").write_text(TEMPLATE)
    lines = []
    for one in "abcdefgh":
        for two in "abcdefgh":
            talk = [("user", f"{one}"), ("assistant", one), ("user", f"{two}="), ("assistant", two)]
            lines.append(json.dumps({"messages": [{"role": role, "content": text} for role, text in talk]}))
    (tmp_path / "talks.jsonl").write_text("\n".join(lines))
    quick = ("--steps", 120, "--every", 20, "--batch", 16, "--learning-rate", 0.003, "--quiet")
    answer = cli(
        "train", tmp_path / "talks.jsonl", "--base", base, "--out", tmp_path / "run", "--full", *quick, "--json"
    )
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    (target,) = found["target"]
    assert target["after"] > target["before"] + 0.5
    # Two turns of the assistant's in every conversation.
    assert found["examples"]["train"] + 2 * (found["examples"]["valid"] + target["n"]) == 2 * 64
    assert {row[0] for row in rows(tmp_path / "run", "SELECT count(*) FROM examples GROUP BY step")} == {16}


@pytest.mark.slow
def test_prompt_and_completion_is_prompt_and_answer(
    train: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    for name, key in {"ours": "answer", "theirs": "completion"}.items():
        lines = [json.dumps({"prompt": f"x{one}{two}=", key: one}) for one in "abcdefgh" for two in "abcdefgh"]
        (tmp_path / "mine.jsonl").write_text("\n".join(lines))
        assert train(name, tasks=[tmp_path / "mine.jsonl"]).code == 0
    assert result_bytes(tmp_path / "ours") == result_bytes(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": "a", "answer": "b", "completion": "c"}, "has both `answer` and `completion`"),
        ({"prompt": "a", "messages": []}, "has both `messages` and `prompt`"),
        ({"messages": []}, "end with what the assistant answers"),
        ({"messages": [{"role": "user", "content": "a"}]}, "end with what the assistant answers"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "end with what the assistant answers"),
        ({"messages": [{"role": "user"}]}, "a role and a content each"),
        ({"messages": [{"role": "user", "content": 3}]}, "a role and a content each"),
        ({"messages": "hello"}, "a role and a content each"),
    ],
)
def test_lines_that_are_no_example_are_named(
    train: Callable[..., Any], tmp_path: Path, line: dict[str, Any], said: str
) -> None:
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "answer": "b"}\n' + json.dumps(line) + "\n")
    answer = train("run", tasks=[tmp_path / "mine.jsonl"])
    assert answer.code == 2
    assert said in answer.err
    assert "mine.jsonl:2" in answer.err


def test_packed_examples_share_rows(small_world: Path) -> None:
    from genepool.tasks import Example, load_tasks, open_model
    from genepool.training import encode_examples

    model = open_model(small_world / "base").load()
    (task,) = load_tasks(small_world / "tasks" / "first")
    examples: list[Example] = list(task.examples("train"))
    (batch,) = encode_examples(model, examples, task, packed=True).batches
    assert "position_ids" in batch.inputs
    rows_used, width = batch.inputs["input_ids"].shape
    assert rows_used < len(examples) / 4
    assert width <= model.context  # type: ignore[attr-defined]
    assert sorted(batch.numbers) == list(range(len(examples)))


def test_a_model_that_cannot_tell_packed_examples_apart_is_refused(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(small_world / "base")
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4, eos_token_id=2, pad_token_id=0
    )
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path / "recurrent")
    tokenizer.save_pretrained(tmp_path / "recurrent")
    line = ["train", small_world / "tasks" / "first", "--base", tmp_path / "recurrent", "--out", tmp_path / "run"]
    refused = cli(*line, "--steps", 2, "--pack", "--quiet")
    assert refused.code == 2
    assert "does not tell packed examples apart" in refused.err


def test_a_conversation_without_a_chat_template_says_what_helps(train: Callable[..., Any], tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    lines = [json.dumps({"id": str(n), "messages": [{**talk[0], "content": f"{n}"}, talk[1]]}) for n in range(64)]
    (tmp_path / "talks.jsonl").write_text("\n".join(lines))
    answer = train("run", "--steps", 1, tasks=[tmp_path / "talks.jsonl"])
    assert answer.code == 2
    assert "Name a model with a chat template" in answer.err
    assert re.match(r"error: .*talks\.jsonl:\d+: the conversation cannot be put to .*no chat template", answer.err)
    assert not (tmp_path / "run").exists()


def test_a_chat_template_that_refuses_a_conversation_is_told_before_anything_is_written(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    """One conversation among many begins with a system message, which the template does not take."""
    base = shutil.copytree(small_world / "base", tmp_path / "base")
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    (base / "chat_template.jinja").write_text(refuses + "{{ messages[0]['content'] }}")
    talks = [[{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "b"}] for n in range(64)]
    for talk in talks[40:44]:
        talk.insert(0, {"role": "system", "content": "c"})
    (tmp_path / "talks.jsonl").write_text("\n".join(json.dumps({"messages": talk}) for talk in talks))
    answer = cli("train", tmp_path / "talks.jsonl", "--base", base, "--out", tmp_path / "run", "--quiet")
    assert answer.code == 2
    assert re.match(r"error: .*talks\.jsonl:4[1-4]: .*no system message", answer.err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["bert", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("t5", "resnet"))])
def test_other_kinds_of_models_learn_and_go_on_to_the_same_bits(
    kind: str, cli: Callable[..., Any], small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    if kind == "resnet":
        pytest.importorskip("PIL")
    tokenizer = transformers.AutoTokenizer.from_pretrained(small_world / "base")
    torch.manual_seed(0)
    small = {"vocab_size": len(tokenizer), "pad_token_id": 0}
    letters = dict(enumerate("abcdefgh"))
    folder = tmp_path / kind
    if kind == "bert":
        config: Any = transformers.BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, id2label=letters,
            label2id={label: n for n, label in letters.items()}, **small,
        )  # fmt: skip
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
    elif kind == "t5":
        config = transformers.T5Config(
            d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, decoder_start_token_id=0, eos_token_id=2, **small
        )
        transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    else:
        _images(tmp_path)
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label={0: "dark", 1: "light"},
            label2id={"dark": 0, "light": 1},
        )  # fmt: skip
        transformers.ResNetForImageClassification(config).save_pretrained(folder)
        transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    if kind != "resnet":
        tokenizer.save_pretrained(folder)
    task = tmp_path / "shades" if kind == "resnet" else small_world / "tasks" / "first"
    form = ["--full"] if kind == "resnet" else ["--lora", "4"]
    options = ["--steps", "60", "--every", "20", "--batch", "16", "--learning-rate", "0.01", "--quiet"]

    def run(name: str) -> Any:
        return cli("train", task, "--base", folder, "--out", tmp_path / name, *form, *options)

    answer = run("whole")
    assert answer.code == 0, answer.err
    found = told(tmp_path / "whole")
    assert found["validations"][-1]["loss"] < found["validations"][0]["loss"]
    asked = f"{folder}+{tmp_path / 'whole' / found['result']}"
    again = json.loads(cli("evaluate", asked, "--tasks", task, "--json").out)["results"][0]
    assert again["mean"] == pytest.approx(found["target"][0]["after"])
    after = running.Run._after

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        if step.number == 25:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert run("stopped").code == 130
    assert run("stopped").code == 0
    assert result_bytes(tmp_path / "stopped") == result_bytes(tmp_path / "whole")


def _images(folder: Path) -> None:
    """A task of light and dark images."""
    from PIL import Image

    for split, count in {"train": 32, "valid": 8, "test": 8}.items():
        place = folder / "shades"
        place.mkdir(exist_ok=True)
        lines = []
        for number in range(count):
            light = number % 2
            name = f"{split}{number}.png"
            Image.new("RGB", (16, 16), (200 + number if light else 20 + number,) * 3).save(place / name)
            lines.append(json.dumps({"id": name, "image": name, "answer": "light" if light else "dark"}))
        (place / f"{split}.jsonl").write_text("\n".join(lines))
    (folder / "shades" / "task.yaml").write_text("input: image\nmetric: exact_match\n")
