"""Evaluating: every answer is what plain greedy decoding writes, nothing is asked twice, and samples stand alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import write_model

from genepool.errors import InputError
from genepool.tasks import Example, LanguageModel, Ledger, OutcomeTable, Task, TaskSettings, callable_task, evaluate
from genepool.weights import open_weights

PROMPTS = ["a", "ab=", "12+3", "hello", "abcdefgh=1234567", "g g\ng", "0123456789abcdefgh0123456789abcd"]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, Any]]:
    """(ours, transformers' own) of models that write different things: ends, repeats, spaces, many tokens."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("models")
    kinds: list[dict[str, Any]] = [
        {"seed": 1},
        {"seed": 2, "tie_word_embeddings": True},
        {"seed": 3, "kind": "gpt2"},
        {"seed": 4, "merging": True},
        {"seed": 5, "merging": True, "kind": "gpt2"},
    ]
    paths = [write_model(folder / str(number), **kind) for number, kind in enumerate(kinds)]
    return [
        (LanguageModel.load(open_weights(path)), AutoModelForCausalLM.from_pretrained(path).eval()) for path in paths
    ]


@cache
def greedy(model: LanguageModel, theirs: Any, prompt: str, max_new_tokens: int, stop: tuple[str, ...]) -> str:
    """What transformers' generate writes for this prompt alone, up to the first stop text."""
    import torch

    ids = model.tokenizer(prompt, return_tensors="pt").input_ids
    count = min(max_new_tokens, 40 - ids.shape[1])
    written = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    text: str = model.tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    return text[: min([text.find(s) for s in stop if s in text], default=len(text))]


def answers_near(text: str) -> list[str]:
    """Answers that are right, or wrong in the ways that are easily mistaken for right."""
    return [text, f" {text}", f"{text}\n", text.strip(), text[:-1], text + "a", text[1:], "?" + text[1:], text * 2, ""]


def ask(model: Any, task: Task, path: Path | str = ":memory:", **options: Any) -> OutcomeTable:
    with Ledger(path) as ledger:
        return evaluate([model], [task], ledger=ledger, **options)


def task_of(pairs: Sequence[tuple[str, Any]], **asked: Any) -> Task:
    examples = [
        Example(str(i), prompt, (answer,) if isinstance(answer, str) else tuple(answer))
        for i, (prompt, answer) in enumerate(pairs)
    ]
    return Task("t", {"all": examples}, TaskSettings(**asked))


@pytest.mark.slow
@settings(max_examples=80)
@given(
    which=st.integers(0, 4),
    chosen=st.lists(st.tuples(st.sampled_from(PROMPTS), st.integers(0, 9)), min_size=1, max_size=6),
    limit=st.sampled_from([1, 2, 5, 60]),
    stop=st.sampled_from([(), ("\n",), ("a", "12"), ("=b", " "), ("3", "g\n")]),
    strip=st.booleans(),
    batch=st.sampled_from([1, 2, 128]),
)
def test_scores_and_outputs_are_those_of_plain_greedy_decoding(
    models: Any, which: int, chosen: Any, limit: int, stop: tuple[str, ...], strip: bool, batch: int
) -> None:
    model, theirs = models[which]
    expected = [greedy(model, theirs, prompt, limit, stop) for prompt, _ in chosen]
    pairs = [
        (prompt, answers_near(text)[near])
        for (prompt, near), text in zip(chosen, expected, strict=True)
        # A prompt and its answer must fit the context together to be read; 40 places are what these models have.
        if len(model.encode(prompt)) + len(model.encode(answers_near(text)[near])) < 40
    ]
    expected = [greedy(model, theirs, prompt, limit, stop) for prompt, _ in pairs]
    if not pairs:
        return
    task = task_of(pairs, max_new_tokens=limit, stop=list(stop), strip=strip)
    right = [
        float(text.strip() == answer.strip() if strip else text == answer)
        for text, (_, answer) in zip(expected, pairs, strict=True)
    ]
    kept = ask(model, task, batch_size=batch, keep_outputs=True)
    assert kept.outputs(model.name, "t") == expected
    assert kept.scores(model.name, "t").tolist() == right
    quick = ask(model, task, batch_size=batch, keep_outputs=False)
    assert quick.scores(model.name, "t").tolist() == right


def test_an_answer_with_characters_the_tokenizer_lacks_is_never_right(tiny_model: Callable[..., Path]) -> None:
    import torch

    model = LanguageModel.load(open_weights(tiny_model(kind="gpt2", tie_word_embeddings=False)))
    with torch.no_grad():
        # Whatever it reads, this model writes the token for unknown characters, which is no text.
        model.model.transformer.ln_f.weight.zero_()
        model.model.transformer.ln_f.bias.fill_(1.0)
        model.model.lm_head.weight.zero_()
        model.model.lm_head.weight[3] = 1.0
    assert model.tokenizer("Z").input_ids == [3]
    for keep in (True, False):
        table = ask(model, task_of([("ab=", "ZY"), ("a", "Z"), ("b", "")], max_new_tokens=2), keep_outputs=keep)
        assert table.scores(model.name, "t").tolist() == [0.0, 0.0, 1.0]


def test_a_stop_text_that_begins_inside_the_answer_cuts_it(models: Any) -> None:
    model, theirs = models[0]
    for prompt in PROMPTS:
        text = greedy(model, theirs, prompt, 6, ())
        if len(text) < 4:
            continue
        # The stop's first character is the answer's last: what is written before the stop is shorter than the answer.
        stop = (text[2:4], text[3])
        task = task_of([(prompt, text[:3])], max_new_tokens=6, stop=list(stop), strip=False)
        for keep in (True, False):
            table = ask(model, task, keep_outputs=keep)
            assert table.scores(model.name, "t")[0] == float(greedy(model, theirs, prompt, 6, stop) == text[:3])


@pytest.mark.slow
def test_a_long_prompt_in_the_batch_does_not_shorten_other_answers(models: Any) -> None:
    for model, theirs in models:
        task = task_of([(prompt, "x") for prompt in PROMPTS], max_new_tokens=60)
        expected = [greedy(model, theirs, prompt, 60, ()) for prompt in PROMPTS]
        assert ask(model, task).outputs(model.name, "t") == expected


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=5, unique=True), st.sampled_from([0.5, 1.0]))
def test_a_sample_belongs_to_its_prompt_not_to_the_batch(models: Any, prompts: list[str], top_p: float) -> None:
    model, _ = models[0]
    drawing = {"max_new_tokens": 5, "temperature": 1.5, "top_p": top_p}
    together = ask(model, task_of([(p, "x") for p in prompts], **drawing)).outputs(model.name, "t")
    alone = [ask(model, task_of([(p, "x")], **drawing)).outputs(model.name, "t")[0] for p in prompts]
    assert together == alone


def test_samples_follow_the_seed_and_the_models_shares(models: Any) -> None:
    import torch

    model, theirs = models[0]
    # The same prompt, told apart only by its answer: 400 draws of the first token.
    task = task_of([("ab=", str(i)) for i in range(400)], max_new_tokens=1, temperature=2.0)
    first = ask(model, task).outputs(model.name, "t")
    assert ask(model, task).outputs(model.name, "t") == first
    assert ask(model, task, seed=1).outputs(model.name, "t") != first
    with torch.inference_mode():
        ids = model.tokenizer("ab=", return_tensors="pt").input_ids
        shares = torch.softmax(theirs(ids).logits[0, -1] / 2.0, -1).tolist()
    for token in range(4, len(shares)):
        spread = math.sqrt(400 * shares[token] * (1 - shares[token]))
        count = first.count(model.tokenizer.decode([token]))
        assert abs(count - 400 * shares[token]) <= 4 * spread + 1
    narrow = task_of([("ab=", str(i)) for i in range(40)], max_new_tokens=1, temperature=2.0, top_p=1e-6)
    assert set(ask(model, narrow).outputs(model.name, "t")) == {greedy(model, theirs, "ab=", 1, ())}


def test_multiple_choice_takes_the_likeliest_continuation(models: Any) -> None:
    import torch

    choices = ("1", "ab", "cd=", "hello", "abcd 12")
    for model, theirs in models:
        examples = [Example(prompt, prompt, ("ab",), choices) for prompt in PROMPTS[:-1]]
        task = Task("t", {"all": examples}, TaskSettings(metric="multiple_choice"))
        table = ask(model, task)
        for example, outcome in zip(examples, table.outcomes(model.name, "t"), strict=True):
            sums = {}
            for choice in choices:
                head = model.tokenizer(example.prompt).input_ids
                whole = model.tokenizer(example.prompt + choice).input_ids
                tail = whole[len(head) :] if whole[: len(head)] == head else model.tokenizer(choice).input_ids
                with torch.inference_mode():
                    shares = torch.log_softmax(theirs(torch.tensor([head + tail])).logits[0], -1)
                sums[choice] = sum(float(shares[len(head) - 1 + k, token]) for k, token in enumerate(tail))
            best = max(sums, key=lambda choice: sums[choice])
            assert (outcome.output, outcome.score) == (best, float(best == "ab"))


def test_contains_regex_and_several_answers(models: Any) -> None:
    model, theirs = models[0]
    text = greedy(model, theirs, "ab=", 6, ())
    pairs = [("ab=", text[1:4]), ("ab=", ["@@", text[2:]]), ("ab=", "@@")]
    table = ask(model, task_of(pairs, metric="contains", max_new_tokens=6, strip=False))
    assert table.scores(model.name, "t").tolist() == [1, 1, 0]
    patterns = [("ab=", ["^.{6}$", r"(?s)^.{6}$"]), ("ab=", "^@")]
    table = ask(model, task_of(patterns, metric="regex", max_new_tokens=6, strip=False))
    assert table.scores(model.name, "t").tolist() == [float(len(text) == 6), 0]
    for keep in (True, False):
        exact = ask(model, task_of([("ab=", ["@", text]), ("ab=", ["@"])], max_new_tokens=6), keep_outputs=keep)
        assert exact.scores(model.name, "t").tolist() == [1, 0]


# ---------------------------------------------------------------------- the ledger's part


def test_the_second_evaluation_asks_nothing_and_loads_nothing(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tiny_model("one"), tiny_model("two", seed=1)]
    tasks = [task_of([("a", "1"), ("b", "2")]), Task("other", {"all": [Example("1", "c", ("d",))]})]
    with Ledger(tmp_path / "l.sqlite") as ledger:
        first = evaluate(folders, tasks, ledger=ledger)
        assert first.evaluated == 6
        monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: pytest.fail("loaded"))
        again = evaluate(folders, tasks, ledger=ledger)
        assert again.evaluated == 0
        for model in first.models:
            for task in first.tasks:
                assert again.outcomes(model, task) == first.outcomes(model, task)
                assert again.cached(model, task) == len(first.examples(task))
        # A limit asks a part of what is known.
        assert evaluate(folders, tasks, ledger=ledger, limit=1).evaluated == 0


def test_only_what_is_new_is_asked(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = LanguageModel.load(open_weights(tiny_model()))
    path = tmp_path / "l.sqlite"
    assert ask(model, task_of([("a", "1")]), path).evaluated == 1
    more = ask(model, task_of([("a", "1"), ("b", "2")]), path)
    assert (more.evaluated, more.cached(model.name, "t")) == (1, 1)
    # Asked another way it is another question.
    for change in ({"stop": ["x"]}, {"max_new_tokens": 3}, {"prefix": "Q"}, {"strip": False}, {"metric": "contains"}):
        assert ask(model, task_of([("a", "1")], **change), path).evaluated == 1
        assert ask(model, task_of([("a", "1")], **change), path).evaluated == 0
    # Another model's weights are another model.
    model.assign(open_weights(tiny_model("other", seed=1)))
    assert ask(model, task_of([("a", "1")]), path).evaluated == 1


def test_outputs_that_are_missing_are_written_once(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model, task = LanguageModel.load(open_weights(tiny_model())), task_of([("a", "@"), ("b", "@")])
    path = tmp_path / "l.sqlite"
    assert ask(model, task, path, keep_outputs=False).evaluated == 2
    assert ask(model, task, path, keep_outputs=False).evaluated == 0
    kept = ask(model, task, path, keep_outputs=True)
    assert all(output is not None for output in kept.outputs(model.name, "t"))
    assert ask(model, task, path, keep_outputs=True).evaluated == 0
    assert ask(model, task, path, keep_outputs=False).outputs(model.name, "t") == kept.outputs(model.name, "t")


def test_examples_of_the_same_content_are_asked_once(tiny_model: Callable[..., Path]) -> None:
    asked = []

    def scorer(model: LanguageModel, example: Example) -> tuple[float, str]:
        asked.append(example.id)
        return len(asked) / 10, f"call {len(asked)}"

    examples = [{"id": name, "prompt": p, "answer": "x"} for name, p in (("1", "a"), ("2", "b"), ("3", "a"))]
    model = LanguageModel.load(open_weights(tiny_model()))
    table = ask(model, callable_task("t", scorer, examples))
    assert asked == ["1", "2"]
    assert table.scores(model.name, "t").tolist() == [0.1, 0.2, 0.1]
    assert (table.evaluated, table.cached(model.name, "t")) == (2, 1)


def test_a_callables_version_and_score_matter(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    import numpy as np

    model, path = LanguageModel.load(open_weights(tiny_model())), tmp_path / "l.sqlite"
    examples = [{"prompt": "a", "answer": "b"}]
    for version, score in (("1", np.float32(0.5)), ("2", True), ("3", 0)):
        task = callable_task("t", lambda m, e, score=score: score, examples, version=version)
        assert ask(model, task, path).scores(model.name, "t").tolist() == [float(score)]
        assert ask(model, task, path).evaluated == 0
    for version, wrong in (("4", 1.5), ("5", float("nan")), ("6", "1"), ("7", None)):
        task = callable_task("t", lambda m, e, wrong=wrong: wrong, examples, version=version)
        with pytest.raises(InputError, match="Correct the function of the task") as caught:
            ask(model, task, path)
        assert caught.value.where == "t:0"


def test_a_callable_asks_the_model_as_a_file_of_prompts_does(tiny_model: Callable[..., Path]) -> None:
    model = LanguageModel.load(open_weights(tiny_model()))
    pairs = [("a", "1"), ("bc", "2"), ("12", "3")]
    seen = ask(model, task_of(pairs), keep_outputs=True).outputs(model.name, "t")
    asked = callable_task(
        "c", lambda m, e: (0.0, m.generate([e.prompt])[0]), [{"id": p, "prompt": p, "answer": a} for p, a in pairs]
    )
    assert ask(model, asked).outputs(model.name, "c") == seen


def test_two_models_of_one_name_stay_apart(tiny_model: Callable[..., Path]) -> None:
    folder, task = tiny_model(), task_of([("a", "1")])
    with Ledger(":memory:") as ledger:
        table = evaluate([folder, folder], [task], ledger=ledger)
        assert table.models == [str(folder), f"{folder} (2)"]
        assert table.evaluated == 1
        with pytest.raises(InputError, match="two tasks are called 't'"):
            evaluate([folder], [task, task], ledger=ledger)
        for models, tasks, limit in (([], [task], None), ([folder], [], None), ([folder], [task], 0)):
            with pytest.raises(InputError):
                evaluate(models, tasks, ledger=ledger, limit=limit)


# ---------------------------------------------------------------------- how a question is put


def few_shot_task(count: int, **asked: Any) -> Task:
    train = [Example(f"t{i}", f"{i}+1=", (str(i + 1),)) for i in range(8)]
    return Task(
        "t", {"train": train, "test": [train[3], Example("x", "9+1=", ("10",))]}, TaskSettings(few_shot=count, **asked)
    )


def test_shown_examples_belong_to_the_seed_and_the_question(models: Any) -> None:
    model, _ = models[0]
    task = few_shot_task(3, prefix="Q:", suffix=" A:", separator="\n")
    for example in task.examples("test"):
        shown = task.shown_before(example)
        assert len({other.key for other in shown}) == 3
        assert example.key not in {other.key for other in shown}
        assert shown == few_shot_task(3).shown_before(example)
        *before, last = task.prompt_for(example, model).split("\n")
        assert before == [f"Q:{other.prompt} A:{other.answer}" for other in shown]
        assert last == f"Q:{example.prompt} A:"
    drawn = {tuple(e.id for e in few_shot_task(3, seed=s).shown_before(task.examples("test")[1])) for s in range(5)}
    assert len(drawn) > 1
    assert len({few_shot_task(n, seed=s).asking for n in (0, 1, 2) for s in (0, 1)}) == 6
    with pytest.raises(InputError, match="few_shot is 8, and the task has 7"):
        few_shot_task(8).shown_before(task.examples("test")[0])


def test_a_chat_template_frames_system_examples_and_question(tiny_model: Callable[..., Path]) -> None:
    model = LanguageModel.load(open_weights(tiny_model()))
    model.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}|{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    task = few_shot_task(1, chat_template=True, system="Add.", prefix="Q:")
    example = task.examples("test")[1]
    (shown,) = task.shown_before(example)
    assert task.prompt_for(example, model) == (
        f"[system|Add.][user|Q:{shown.prompt}][assistant|{shown.answer}][user|Q:9+1=]>"
    )


def test_a_prompt_that_does_not_fit_is_refused(models: Any) -> None:
    model, _ = models[0]
    with pytest.raises(InputError, match="does not fit the context of 40"):
        ask(model, task_of([("a" * 41, "b")]))
