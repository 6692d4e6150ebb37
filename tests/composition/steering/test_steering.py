"""Steering vectors: where they are added, what they are made of, and when they fold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.composition.composers.steering import summed
from genepool.composition.steering.extraction import answer_states, steering_vectors
from genepool.composition.steering.layers import decoder_layers
from genepool.composition.steering.steered_model import SteeredLanguageModel, steering_biases
from genepool.errors import GenepoolError
from genepool.tasks import Decoding
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.weights import open_weights
from tests.tasks.tiny_models import write_model

PROMPTS = ["ab=", "abcdef: 12", "g", "12+34="]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    place = tmp_path_factory.mktemp("bases")
    return {kind: LanguageModel.load(open_weights(write_model(place / kind, kind=kind))) for kind in ("llama", "gpt2")}


def steered(base: LanguageModel, *, everywhere: bool = False, size: float = 3.0) -> SteeredLanguageModel:
    generator = torch.Generator().manual_seed(1)
    vectors = {number: size * torch.randn(16, generator=generator) for number in range(2)}
    return SteeredLanguageModel(base, vectors, "steered", "5" * 64, everywhere=everywhere)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_vectors_of_nothing_change_nothing(bases: dict[str, LanguageModel], kind: str) -> None:
    decoding = Decoding(max_new_tokens=5)
    base = bases[kind]
    found, expected = (model.write(PROMPTS, PROMPTS, decoding) for model in (steered(base, size=0), base))
    assert [(one.text, one.tokens) for one in found] == [(one.text, one.tokens) for one in expected]
    # The last digits hang on where in memory the rows of a product begin.
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in expected], rel=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_vector_is_added_from_the_prompts_last_token_on(bases: dict[str, LanguageModel], kind: str) -> None:
    """The same as adding it by hand to what the first layer gives at those places."""
    base = bases[kind]
    model = SteeredLanguageModel(base, {0: torch.linspace(-1, 1, 16)}, "steered", "5" * 64, everywhere=False)
    ids = torch.tensor([base.encode("abcdef")])
    layer = decoder_layers(base.model, "base")[0]
    with torch.inference_mode():
        found = model.model(input_ids=ids, use_cache=False, answer_starts=torch.tensor([3])).logits

        def by_hand(_module: Any, _inputs: Any, output: Any) -> Any:
            states = (output[0] if isinstance(output, tuple) else output).clone()
            states[:, 3:] += torch.linspace(-1, 1, 16)
            return (states, *output[1:]) if isinstance(output, tuple) else states

        handle = layer.register_forward_hook(by_hand)
        expected = base.model(input_ids=ids, use_cache=False).logits
        handle.remove()
        plain = base.model(input_ids=ids, use_cache=False).logits
    assert torch.equal(found, expected)
    assert torch.equal(found[:, :3], plain[:, :3])
    assert not torch.allclose(found[:, 3:], plain[:, 3:])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_batches_single_rows_and_whole_answers_agree(bases: dict[str, LanguageModel], kind: str) -> None:
    model = steered(bases[kind])
    decoding = Decoding(max_new_tokens=4)
    together = model.write(PROMPTS, PROMPTS, decoding)
    for prompt, one in zip(PROMPTS, together, strict=True):
        (alone,) = model.write([prompt], [prompt], decoding)
        assert alone.text == one.text
        assert alone.logprob == pytest.approx(one.logprob, abs=1e-3)
    answers = ["ab1", "c d", "12", "h"]
    likely, forced = model.loglikelihoods(PROMPTS, answers), model.forced_answers(PROMPTS, answers, decoding, False, 8)
    same_prompt = model.loglikelihoods([PROMPTS[0]] * 2, answers[:2])
    assert same_prompt[0].logprob == pytest.approx(likely[0].logprob, abs=1e-3)
    for one, other in zip(likely, forced, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


@pytest.mark.slow
def test_generate_of_transformers_steers_as_writing_does(bases: dict[str, LanguageModel]) -> None:
    model = steered(bases["llama"])
    for prompt in PROMPTS:
        ids = torch.tensor([model.encode(prompt)])
        for beams in (1, 2):
            out = model.model.generate(ids, max_new_tokens=4, do_sample=False, num_beams=beams, eos_token_id=None)
            assert out.shape[1] == ids.shape[1] + 4
        greedy = model.model.generate(ids, max_new_tokens=4, do_sample=False)
        (written,) = model.write([prompt], [prompt], Decoding(max_new_tokens=4))
        assert model.decode(greedy[0, ids.shape[1] :].tolist()) == written.text


def test_biases_that_steer_alike_are_found_where_there_are_any(bases: dict[str, LanguageModel]) -> None:
    """Folded equals added everywhere, to 1e-5."""
    base = bases["gpt2"]
    model = steered(base, everywhere=True, size=1.0)
    names = steering_biases(base, [0, 1])
    assert names == [f"transformer.h.{number}.mlp.c_proj.bias" for number in (0, 1)]
    ids = torch.tensor([base.encode("abcdef")])
    parameters = dict(base.model.named_parameters())
    kept = {name: parameters[name].data.clone() for name in names}
    with torch.inference_mode():
        expected = model.model(input_ids=ids, use_cache=False).logits
        for number, name in enumerate(names):
            parameters[name].data += model.model._vectors[number]
        folded = base.model(input_ids=ids, use_cache=False).logits
        for name, values in kept.items():
            parameters[name].data.copy_(values)
    assert torch.allclose(folded, expected, atol=1e-5)
    with pytest.raises(GenepoolError, match="no bias that is added"):
        steering_biases(bases["llama"], [0])


def test_states_are_read_at_the_last_token_of_the_answer(bases: dict[str, LanguageModel]) -> None:
    base = bases["llama"]
    states = answer_states(base, ["ab=", "g"], ["cd", ""])
    assert states.shape == (2, 2, 16)
    for row, text in enumerate(("ab=cd", "g")):
        (layers,) = base.hidden_states([text])
        assert torch.allclose(states[row, 0], layers[1][-1], atol=1e-5)


def test_a_vector_is_the_direction_of_the_mean_difference() -> None:
    other = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]])
    right = other + torch.tensor([[[3.0, 4.0]], [[3.0, 4.0]]])
    vectors, norms = steering_vectors(right, other)
    assert torch.allclose(vectors, torch.tensor([[0.6, 0.8]]))
    assert norms.tolist() == [2.0]
    assert steering_vectors(other, other)[0].tolist() == [[0.0, 0.0]]


def test_vectors_behind_one_layer_are_added_up() -> None:
    found = summed([(1, torch.ones(2)), (0, torch.zeros(2)), (1, torch.ones(2))])
    assert {number: vector.tolist() for number, vector in found.items()} == {1: [2.0, 2.0], 0: [0.0, 0.0]}


# ---------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 with two skills, and a task of each."""
    place = tmp_path_factory.mktemp("world")
    for seed, name in enumerate(("base", "one", "two")):
        write_model(place / name, seed=seed, kind="gpt2")
    for name in ("one", "two"):
        task = place / "tasks" / name
        task.mkdir(parents=True)
        rows = [{"id": str(at), "prompt": f"{at}=", "answer": "ab"} for at in range(8)]
        for split in ("train", "valid", "test"):
            (task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (task / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 4\n")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("contrast", ["skill", "answers"])
def test_skills_get_layers_of_their_own(cli: Callable[..., Any], place: Path, tmp_path: Path, contrast: str) -> None:
    call = ["compose", "steering", place / "one", place / "two", "--base", place / "base", "--tasks", place / "tasks"]
    settings = ["--set", f"contrast={contrast}", "--set", "scales=[0.5,2]"]
    answer = cli(*call, "--examples", "8", "--out", tmp_path / "out", *settings, "--json")
    assert answer.code == 0, answer.err
    placed = json.loads(answer.out)["record"]["placed"]
    assert {one["task"] for one in placed} == {"one", "two"}
    assert {one["layer"] for one in placed} == {0, 1}
    assert cli("generate", tmp_path / "out", "--prompt", "ab").code == 0
    together = cli(*call, "--examples", "8", "--out", tmp_path / "sum", *settings, "--set", "place=one", "--json")
    assert len({one["layer"] for one in json.loads(together.out)["record"]["placed"]}) == 1


@pytest.mark.slow
def test_added_everywhere_it_folds_into_a_model(cli: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    call = ["compose", "steering", place / "one", "--base", place / "base", "--tasks", place / "tasks"]
    call += ["--task", "one", "--set", "everywhere=true", "--set", "scales=[1]"]
    assert cli(*call, "--out", tmp_path / "folded").code == 0
    assert cli(*call, "--out", tmp_path / "kept", "--keep").code == 0
    assert (tmp_path / "folded" / "config.json").is_file()
    assert (tmp_path / "kept" / "composition.json").is_file()
    for prompt in PROMPTS:
        texts = [cli("generate", tmp_path / one, "--prompt", prompt, "--json").out for one in ("folded", "kept")]
        assert json.loads(texts[0])["results"][0]["output"] == json.loads(texts[1])["results"][0]["output"]


@pytest.mark.slow
def test_a_vector_that_does_not_help_is_a_warning_and_stands_on_the_card(
    cli: Callable[..., Any], place: Path, tmp_path: Path
) -> None:
    """Scaled by next to nothing, a vector changes no answer."""
    out = tmp_path / "out"
    call = ["compose", "steering", place / "one", "--base", place / "base", "--tasks", place / "tasks", "--task", "one"]
    answer = cli(*call, "--set", "scales=[1e-9]", "--set", "layers=[0]", "--out", out, "--json")
    assert answer.code == 0, answer.err
    assert "warning: one: no vector helps (held-out score 0.000 without one, 0.000 with the best" in answer.err
    (warning,) = json.loads(answer.out)["record"]["warnings"]
    assert f"Warning: {warning}" in (out / "README.md").read_text()


def test_what_cannot_be_steered_is_one_line(cli: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    call = ["compose", "steering", place / "one", "--base", place / "base", "--out", tmp_path / "out"]
    tasks = ["--tasks", place / "tasks", "--task", "one"]
    for more, what in (
        ([], "no tasks are named"),
        ([*tasks, "--set", "layers=[7]"], "there is no layer 7, the base has 2"),
        ([*tasks, "--examples", "2"], "has 2 examples, at least 4 are needed"),
        (["--tasks", place / "tasks", "--task", "two"], "no task is called like a skill"),
    ):
        answer = cli(*call, *more)
        assert answer.code == 2
        assert what in answer.err
    assert not (tmp_path / "out").exists()
