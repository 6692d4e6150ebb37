"""Language models on streams: they choose among the answers that a stream names, and teach themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_streams import write_model as write_digits
from made_streams import write_stream

from genepool.adaptation import Adaptation, Stream, load_stream
from genepool.adaptation.adapters.tt_si import lesson_of, read_questions
from genepool.adaptation.choosing_model import ChoosingModel
from genepool.errors import InputError
from genepool.tasks import open_model
from genepool.tasks.answers import Question
from genepool.tasks.decoding import Decoding
from tests.tasks.tiny_models import write_classifier, write_model

Cli = Callable[..., Any]
TEXTS = ["abc=", "a=", "defgh 12=", "ab=", "hhhh=", "c d e f=", "1234567=", "b="]
LETTERS = tuple("abcdefgh01234567")
# So sure an item is of nothing: all of a batch are uncertain.
ALL = {"margin": 1.0, "ask": "{prompt}", "tokens": 6, "lessons": 3, "rate": 0.05, "temperature": 2.0}


def _lines(count: int = 16) -> list[dict[str, Any]]:
    return [
        {"id": f"t{at}", "prompt": TEXTS[at % len(TEXTS)], "answer": LETTERS[at % 3], "domain": "x"}
        for at in range(count)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("writer") / "model")


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream whose choices are one token each."""
    place = tmp_path_factory.mktemp("letters") / "stream"
    return write_stream(place, _lines(), source=False, order="file", choices=list(LETTERS))


def _likelihoods(model: Path, prompts: list[str], choices: tuple[str, ...]) -> torch.Tensor:
    """What the model itself says of every answer, shape (prompts, choices)."""
    loaded = open_model(model).load()
    told = loaded.loglikelihoods([p for p in prompts for _ in choices], [c for _ in prompts for c in choices])
    return torch.tensor([one.logprob for one in told]).view(len(prompts), len(choices))


@pytest.mark.parametrize("choices", [LETTERS, ("a", "bc", "12 d"), ("hh", "h")])
def test_a_choice_is_as_likely_as_the_model_says(model: Path, choices: tuple[str, ...]) -> None:
    asked = ChoosingModel(open_model(model).load(), choices)
    wanted = _likelihoods(model, TEXTS, choices)
    inputs = read_questions(asked, [Question("x", text, choices[0]) for text in TEXTS])
    found = torch.zeros_like(wanted)
    for rows, part in inputs.parts:
        batch = next(iter(asked.answer_batches([Question("x", TEXTS[row], choices[0]) for row in rows])))
        assert set(batch.inputs) == set(part)
        found[[rows[at] for at in batch.numbers]] = asked.answer_logits(batch).detach()
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(asked.class_scores(TEXTS), wanted.log_softmax(-1), atol=1e-4, rtol=1e-4)


def test_what_is_issued_first_are_the_likelihoods(model: Path, letters: Path) -> None:
    run = Adaptation(model, letters, "tent", rounds=2)
    step = next(run)
    wanted = _likelihoods(model, TEXTS, LETTERS).softmax(-1)
    torch.testing.assert_close(step.probabilities, wanted, atol=1e-5, rtol=1e-4)
    assert step.predicted == tuple(LETTERS[at] for at in wanted.argmax(-1).tolist())
    start = dict(run._frozen_model.network.named_parameters())
    list(run)
    moved = {name for name, one in run.model.network.named_parameters() if not torch.equal(one, start[name])}
    assert moved
    assert all("norm" in name for name in moved)
    assert run.skill() is not None


def test_the_choices_are_part_of_the_digest(letters: Path, tmp_path: Path) -> None:
    other = write_stream(tmp_path / "s", _lines(), source=False, order="file", choices=["a", "b", "c", "d"])
    assert load_stream(other).digest != load_stream(letters).digest
    made = Stream.of(TEXTS, list("abcabcab"), choices=LETTERS)
    assert made.choices == LETTERS
    assert made.digest != Stream.of(TEXTS, list("abcabcab")).digest


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        (["a"], r"stream\.json:choices: got 1, expected from 2"),
        (["a", "b", "a"], "names 'a' twice"),
        (["a", " "], "got ' ' for an answer"),
        (["a", "b\nc"], "for an answer"),
        ("abc", "choices"),
    ],
)
def test_choices_that_are_none_are_refused(tmp_path: Path, choices: Any, said: str) -> None:
    stream = write_stream(tmp_path / "s", _lines(), source=False, choices=choices)
    with pytest.raises(InputError, match=said):
        load_stream(stream)


def test_a_model_and_a_stream_that_do_not_suit_each_other_are_told(
    model: Path, letters: Path, base: Path, stream: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"expected a classifier.*as `choices`"):
        Adaptation(model, write_stream(tmp_path / "none", _lines(), source=False), "tent")
    classifier = write_classifier(tmp_path / "classifier", labels=LETTERS)
    with pytest.raises(InputError, match=r"names choices, .* is a text classifier"):
        Adaptation(classifier, letters, "tent")
    with pytest.raises(InputError, match="reads prompts, not numbers"):
        numbers = [{"id": "a", "input": [0.5] * 4, "answer": "a"}]
        Adaptation(model, write_stream(tmp_path / "n", numbers, source=False, choices=list(LETTERS)), "tent")
    with pytest.raises(InputError, match="none of the 16 classes"):
        wrong = [{**row, "answer": "9"} for row in _lines()]
        Adaptation(model, write_stream(tmp_path / "w", wrong, source=False, choices=list(LETTERS)), "tent")
    with pytest.raises(InputError, match="exceed the context of 40"):
        long = [{**row, "prompt": "a" * 40} for row in _lines()]
        Adaptation(model, write_stream(tmp_path / "l", long, source=False, choices=list(LETTERS)), "tent")
    with pytest.raises(InputError, match=r"no last linear layer"):
        Adaptation(model, letters, "lame")
    with pytest.raises(InputError, match="writes no text, and tt_si learns from what a language model writes"):
        Adaptation(base, stream, "tt_si")
    with pytest.raises(InputError, match=r"--set ask.*holds no \{prompt\}"):
        Adaptation(model, letters, "tt_si", options={"ask": "more"})


# ---------------------------------------------------------------------- test-time self-improvement


def test_each_item_learns_from_its_own_lessons_as_if_alone(model: Path, letters: Path) -> None:
    """The formula, item by item, with factors in a copy of the network: what a batch does at once."""
    run = Adaptation(model, letters, "tt_si", options=ALL, rounds=1)
    other = run.model.copy()
    batch = run._batch(run.batches[0])
    assert batch.prompts == tuple(TEXTS)
    step = next(run)
    adapter: Any = run.adapter
    lessons = adapter._lessons(batch, list(range(8)))
    assert len({row for row, _ in lessons}) > 2
    for row in range(8):
        own = [lesson for at, lesson in lessons if at == row]
        found = _taught(other, own, row, adapter, TEXTS[row])
        torch.testing.assert_close(step.probabilities[row], found, atol=2e-3, rtol=2e-2)
    update = run.update()
    assert update is not None
    assert update.signals.weight.tolist() == [sum(at == row for at, _ in lessons) for row in range(8)]
    assert update.signals.kept.tolist() == [one > 0 for one in update.signals.weight.tolist()]
    # Something was learned, and nothing of the model itself.
    frozen = run._frozen[:8]
    assert float((step.probabilities - frozen).abs().max()) > 0.01
    start = dict(run._frozen_model.network.named_parameters())
    assert all(torch.equal(one, start[name]) for name, one in run.model.network.named_parameters())
    assert run.skill() is None


def _taught(other: Any, lessons: list[Question], row: int, adapter: Any, prompt: str) -> torch.Tensor:
    """The choices' probabilities after five steps of Adam on the mean of the lessons, the factors added to weights."""
    from genepool.adaptation.low_rank_pool import LowRankPool
    from genepool.seeding import derive

    # Where the factors begin is drawn for all items of the batch.
    pool = LowRankPool(other, 9, 8, 2.0, derive(0, "self-improvement factors", 0))
    pool.remove()
    factors = {name: one.detach()[row].clone().requires_grad_(True) for name, one in pool.tensors.items()}
    moments = {name: (torch.zeros_like(one), torch.zeros_like(one)) for name, one in factors.items()}
    weights = dict(other.network.named_parameters())
    plain = {name.removeprefix("up "): None for name in factors if name.startswith("up ")}

    def likelihoods(text: str) -> torch.Tensor:
        ids = torch.tensor([other.asked.encode(text)])
        changed = {name: weights[name] + 2.0 * factors[f"up {name}"].T @ factors[f"down {name}"] for name in plain}
        logits = torch.func.functional_call(other.network, changed, kwargs={"input_ids": ids}).logits[0, -1]
        return logits.log_softmax(-1)[[other.asked.encode_whole(choice)[-1] for choice in LETTERS]]

    if lessons:
        for number in range(1, 6):
            loss = -torch.stack([likelihoods(one.prompt)[LETTERS.index(one.answer)] for one in lessons]).mean()
            gradients = torch.autograd.grad(loss, list(factors.values()))
            with torch.no_grad():
                for (name, one), gradient in zip(factors.items(), gradients, strict=True):
                    first, second = moments[name]
                    first.mul_(0.9).add_(0.1 * gradient)
                    second.mul_(0.999).add_(0.001 * gradient**2)
                    one.sub_(0.05 * first / (1 - 0.9**number) / ((second / (1 - 0.999**number)).sqrt() + 1e-8))
    return likelihoods(prompt).softmax(-1).detach()


@pytest.mark.parametrize("select", ["uncertain", "certain", "random"])
def test_as_many_items_are_chosen_however_they_are(model: Path, letters: Path, select: str) -> None:
    lead = _likelihoods(model, TEXTS, LETTERS).softmax(-1).sort(-1, descending=True).values
    lead = lead[:, 0] - lead[:, 1]
    margin = float(lead.sort().values[2:4].mean())
    run = Adaptation(model, letters, "tt_si", options={**ALL, "margin": margin, "select": select}, rounds=1)
    adapter: Any = run.adapter
    chosen = adapter._chosen(run._frozen[:8], 0)
    assert len(chosen) == 3
    if select == "uncertain":
        assert chosen == sorted(lead.argsort()[:3].tolist())
    if select == "certain":
        assert chosen == sorted(lead.argsort(descending=True)[:3].tolist())
    if select == "random":
        assert {tuple(adapter._chosen(run._frozen[:8], number)) for number in range(5)} != {tuple(chosen)}


def test_items_that_are_not_chosen_are_answered_as_by_the_model(model: Path, letters: Path) -> None:
    run = Adaptation(model, letters, "tt_si", options={**ALL, "margin": 0.0}, rounds=1)
    for step in run:
        places = list(run.batches[step.number].places)
        assert torch.equal(step.probabilities, run._frozen[places])
    counts = run.adapter.state().values
    assert counts == {"asked": 0, "written": 0, "lessons": 0}


@pytest.mark.slow
def test_lessons_are_counted_and_a_run_goes_on_to_the_same_bits(model: Path, letters: Path, tmp_path: Path) -> None:
    def run() -> Adaptation:
        return Adaptation(model, letters, "tt_si", options=ALL, rounds=2)

    whole = run()
    steps = [step.probabilities for step in whole]
    counts = whole.adapter.state().values
    assert counts["asked"] == 32
    assert counts["written"] == 96
    assert 0 < counts["lessons"] <= 96
    first = run()
    for _ in range(2):
        next(first)
    first.save(tmp_path / "state")
    second = run().restore(tmp_path / "state")
    rest = [step.probabilities for step in second]
    assert all(torch.equal(one, other) for one, other in zip(steps[2:], rest, strict=True))
    assert second.adapter.state().values == counts
    second.adapter.reset()
    assert second.adapter.state().values == dict.fromkeys(counts, 0)
    values = json.loads((tmp_path / "state" / "state.json").read_text())
    values["adapter"]["lessons"] = -1
    (tmp_path / "state" / "state.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="is damaged"):
        run().restore(tmp_path / "state")


def test_lessons_are_what_the_model_writes(model: Path, letters: Path) -> None:
    run = Adaptation(model, letters, "tt_si", options={**ALL, "ask": "1 {prompt}"}, rounds=1)
    adapter: Any = run.adapter
    found = adapter._lessons(run._batch(run.batches[0]), [2])
    loaded: Any = open_model(model).load()
    from genepool.seeding import derive

    decoding = Decoding(max_new_tokens=6, temperature=2.0, seed=derive(0, "self-improvement lessons"))
    written = loaded.write(["1 defgh 12="] * 3, [f"0/t2/{at}" for at in range(3)], decoding)
    told = [lesson_of(one.text, LETTERS, "x") for one in written]
    assert [(one.prompt, one.answer) for _, one in found] == [(one.prompt, one.answer) for one in told if one]


@given(st.text(alphabet="ab =\n", max_size=8), st.sampled_from(["a", "ba", "b a"]))
def test_a_lesson_is_a_prompt_and_the_choice_at_its_end(prompt: str, choice: str) -> None:
    found = lesson_of(f" {prompt}={choice}\n", ("a", "ba", "b a"), "x")
    assert found is not None
    assert found.answer == choice
    assert found.prompt == f"{prompt}=".strip()


def test_what_is_no_lesson() -> None:
    assert lesson_of("", LETTERS, "x") is None
    assert lesson_of("a", LETTERS, "x") is None
    assert lesson_of("ab=9", LETTERS, "x") is None


def test_the_command_adapts_a_language_model(cli: Cli, model: Path, letters: Path, tmp_path: Path) -> None:
    typed = ["adapt", model, "--stream", letters, "--json"]
    answer = cli(*typed, "--adapter", "tt_si", "--out", tmp_path / "tt", "--set", "ask={prompt}", "--set",
                 "margin=1", "--set", "tokens=6", "--rounds", "1")  # fmt: skip
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert (told["adapter"], told["skill"], told["batches"]) == ("tt_si", None, 2)
    again = cli(*typed, "--adapter", "tt_si", "--out", tmp_path / "tt", "--set", "ask={prompt}", "--set", "margin=1",
                "--set", "tokens=6", "--rounds", "1")  # fmt: skip
    assert json.loads(again.out)["finished_before"]
    answer = cli(*typed, "--adapter", "tent", "--clean", letters, "--out", tmp_path / "tent")
    told = json.loads(answer.out)
    assert math.isfinite(told["clean_after"])
    assert told["skill"] == "skill.safetensors"
    answer = cli("adapt", write_digits(tmp_path / "digits"), "--stream", letters, "--adapter", "tent", "--out",
                 tmp_path / "no")  # fmt: skip
    assert (answer.code, "names choices" in answer.err) == (2, True)
