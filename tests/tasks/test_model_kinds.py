"""Every kind of model says what transformers says, in batches of any size, and refuses what it cannot do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import write_classifier, write_image_classifier, write_model, write_translator

from genepool.errors import InputError
from genepool.tasks import Decoding, Example, Ledger, Model, Task, TaskSettings, evaluate, open_model
from genepool.tasks.models import WeightsSource, model_kinds
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.models.encoder_decoder import EncoderDecoder
from genepool.tasks.models.image_classifier import ImageClassifier
from genepool.tasks.models.sequence_classifier import SequenceClassifier
from genepool.weights import open_weights

PROMPTS = ["ab=", "a", "hgfe dcba", "12+34=", "ab=", "b:c:d"]
WRITERS: dict[str, Callable[..., Path]] = {
    "causal": write_model,
    "t5": write_translator,
    "bart": lambda folder, **changes: write_translator(folder, kind="bart", **changes),
    "bert": write_classifier,
    "vit": write_image_classifier,
}
KINDS = {"causal": LanguageModel, "t5": EncoderDecoder, "bart": EncoderDecoder, "bert": SequenceClassifier,
         "vit": ImageClassifier}  # fmt: skip


def pictures(folder: Path, count: int = 5) -> list[str]:
    """Random images of several sizes, in folder/pictures."""
    from PIL import Image

    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    generator, names = torch.Generator().manual_seed(0), []
    for number in range(count):
        values = torch.randint(0, 256, (8 + number, 10, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(values.numpy()).save(folder / "pictures" / f"{number}.png")
        names.append(f"pictures/{number}.png")
    return names


# ---------------------------------------------------------------------- opening and loading


@pytest.mark.parametrize("name", KINDS)
def test_opening_finds_the_kind_and_loading_is_what_transformers_does(tmp_path: Path, name: str) -> None:
    import transformers

    folder = WRITERS[name](tmp_path / name)
    source = open_model(folder)
    assert source.kind is KINDS[name]
    assert (source.name, source.fingerprint) == (str(folder), open_weights(folder).fingerprint())
    model = source.load()
    auto = {
        LanguageModel: "AutoModelForCausalLM",
        EncoderDecoder: "AutoModelForSeq2SeqLM",
        SequenceClassifier: "AutoModelForSequenceClassification",
        ImageClassifier: "AutoModelForImageClassification",
    }[KINDS[name]]
    ours = dict(model.model.named_parameters())
    theirs = dict(getattr(transformers, auto).from_pretrained(folder).named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not model.model.training


@pytest.mark.parametrize("name", KINDS)
def test_assigning_is_loading(tmp_path: Path, name: str) -> None:
    first, second = (WRITERS[name](tmp_path / str(seed), seed=seed) for seed in (1, 2))
    model, other = open_model(first).load(), open_model(second).load()
    model.assign(open_weights(second))
    assert model.fingerprint == open_weights(second).fingerprint()
    held, expected = (dict(each.model.named_parameters()) for each in (model, other))
    assert all(torch.equal(held[key], expected[key]) for key in held)


def test_exactly_one_kind_holds_each_of_them(tmp_path: Path) -> None:
    *special, last = model_kinds()
    assert last is LanguageModel
    for name, write in WRITERS.items():
        config = json.loads((write(tmp_path / name) / "config.json").read_text())
        assert [kind for kind in special if kind.holds(config)] == [kind for kind in special if kind is KINDS[name]]


def test_a_model_in_memory_and_a_source_are_sources_themselves(tmp_path: Path) -> None:
    source = open_model(write_classifier(tmp_path / "m"))
    assert open_model(source) is source
    model = source.load()
    again = open_model(model)
    assert again.load("abacus") is model
    assert (again.kind, again.name, again.fingerprint) == (SequenceClassifier, model.name, model.fingerprint)
    assert isinstance(open_model(open_weights(tmp_path / "m")), WeightsSource)


# ---------------------------------------------------------------------- classifiers


@pytest.mark.parametrize("batch_size", [1, 4, 128])
def test_a_text_classifiers_scores_are_those_of_transformers(tmp_path: Path, batch_size: int) -> None:
    model = open_model(write_classifier(tmp_path / "m", labels=["a", "b", "c"])).load()
    scores = model.class_scores(PROMPTS, batch_size)
    assert model.labels == ("a", "b", "c")
    for prompt, row in zip(PROMPTS, scores, strict=True):
        with torch.inference_mode():
            logits = model.model(**model.tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)).logits[0]
        assert torch.allclose(row, logits.log_softmax(-1), atol=1e-5)


def test_an_image_classifiers_scores_are_those_of_transformers(tmp_path: Path) -> None:
    from PIL import Image

    folder = write_image_classifier(tmp_path / "m")
    paths = [str(tmp_path / name) for name in pictures(tmp_path)]
    model = open_model(folder).load()
    for batch_size in (2, 128):
        scores = model.class_scores(paths, batch_size)
        for path, row in zip(paths, scores, strict=True):
            pixels = model.processor(images=Image.open(path).convert("RGB"), return_tensors="pt").pixel_values
            with torch.inference_mode():
                expected = model.model(pixel_values=pixels).logits[0].log_softmax(-1)
            assert torch.allclose(row, expected, atol=1e-5)


# ---------------------------------------------------------------------- writing


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("batch_size", [2, 128])
def test_greedy_decoding_is_transformers_own(tmp_path: Path, name: str, batch_size: int) -> None:
    model = open_model(WRITERS[name](tmp_path / name, seed=3)).load()
    ours = model.write(PROMPTS, PROMPTS, Decoding(max_new_tokens=8), batch_size)
    begin = len(model._begin)
    for prompt, written in zip(PROMPTS, ours, strict=True):
        ids = torch.tensor([model.encode(prompt)])
        out = model.model.generate(ids, do_sample=False, num_beams=1, max_new_tokens=8 + begin - 1)
        assert written.text == model.tokenizer.decode(out[0, begin:], skip_special_tokens=True)
    assert len({one.text for one in ours}) > 1


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_likelihoods_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    model = open_model(WRITERS[name](tmp_path / name, seed=4)).load()
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    texts = ["ab", "c", "12", "a", "fgh", "", "d", "ab", "=", "e", "b", "a1"]
    found = model.loglikelihoods(prompts, texts, 3)
    for prompt, text, one in zip(prompts, texts, found, strict=True):
        target = model.encode_target(text)
        decoder = torch.tensor([[*model._begin, *target]])
        with torch.inference_mode():
            logits = model.model(input_ids=torch.tensor([model.encode(prompt)]), decoder_input_ids=decoder).logits[0]
        shares = logits.log_softmax(-1)[len(model._begin) - 1 :]
        expected = sum(float(shares[place, token]) for place, token in enumerate(target))
        assert one.logprob == pytest.approx(expected, abs=1e-4)
        assert one.tokens == len(target) == len(text)


@pytest.mark.parametrize("merging", [False, True])
def test_an_answer_that_is_read_is_judged_as_one_that_is_written(tmp_path: Path, merging: bool) -> None:
    """An encoder-decoder's exact matches are those of its own writing, whatever its tokenizer."""
    model = open_model(write_translator(tmp_path / "m", seed=5, merging=merging)).load()
    decoding = Decoding(max_new_tokens=4)
    written = [one.text for one in model.write(PROMPTS, PROMPTS, decoding)]
    for answers in (written, [text + "a" for text in written], ["b"] * len(PROMPTS)):
        told = model.forced_answers(PROMPTS, answers, decoding, False, 4)
        for verdict, answer, text in zip(told, answers, written, strict=True):
            assert verdict.matches in (None, answer == text)
    task = Task("t", {"all": [Example(str(i), p, (written[i],)) for i, p in enumerate(PROMPTS)]},
                settings=TaskSettings(max_new_tokens=4, strip=False))  # fmt: skip
    with Ledger(":memory:") as ledger:
        table = evaluate([model], [task], ledger=ledger)
    assert table.scores(table.models[0], "t").tolist() == [1.0] * len(PROMPTS)


def test_drawn_answers_belong_to_seed_and_key_not_to_the_batch(tmp_path: Path) -> None:
    model = open_model(write_translator(tmp_path / "m", seed=6)).load()
    decoding = Decoding(max_new_tokens=6, temperature=1.5, seed=7)
    together = [one.text for one in model.write(PROMPTS, PROMPTS, decoding)]
    alone = [model.write([prompt], [prompt], decoding)[0].text for prompt in PROMPTS]
    other = [one.text for one in model.write(PROMPTS, PROMPTS, Decoding(max_new_tokens=6, temperature=1.5, seed=8))]
    assert together == alone
    assert together != other


# ---------------------------------------------------------------------- hidden states


@pytest.mark.parametrize("name", KINDS)
def test_hidden_states_have_no_padding_and_embeddings_are_their_mean(tmp_path: Path, name: str) -> None:
    model: Any = open_model(WRITERS[name](tmp_path / name)).load()
    prompts = [str(tmp_path / each) for each in pictures(tmp_path)] if name == "vit" else PROMPTS
    together = model.hidden_states(prompts)
    for prompt, layers in zip(prompts, together, strict=True):
        (alone,) = model.hidden_states([prompt])
        assert len(layers) == len(alone) == 3
        assert all(torch.allclose(one, two, atol=1e-4) for one, two in zip(layers, alone, strict=True))
        if name != "vit":
            assert layers[0].shape == (len(model.encode(prompt)), 16)
    expected = torch.stack([layers[-1].mean(0) for layers in together])
    assert torch.equal(model.embeddings(prompts), expected)


# ---------------------------------------------------------------------- what is refused


def test_a_kind_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    classifier, writer = (open_model(WRITERS[name](tmp_path / name)).load() for name in ("bert", "causal"))
    questions: list[tuple[Model, Callable[[Model], Any], str]] = [
        (classifier, lambda m: m.generate(["a"]), "a text classifier cannot generate text"),
        (
            classifier,
            lambda m: m.forced_answers(["a"], ["b"], Decoding(), True, 1),
            "a text classifier cannot generate text",
        ),
        (classifier, lambda m: m.loglikelihoods(["a"], ["b"]), "cannot tell how likely a text is"),
        (writer, lambda m: m.class_scores(["a"]), "a causal language model cannot classify"),
        (writer, lambda m: m.labels, "a causal language model cannot classify"),
    ]
    for model, question, said in questions:
        with pytest.raises(InputError, match=said) as caught:
            question(model)
        assert model.name in str(caught.value)


def rewritten(folder: Path, **changes: Any) -> Path:
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "id2label names 3 classes, and the head .* has 2"),
        ({"id2label": {"0": "a"}}, "id2label names 1 class"),
        ({"id2label": {"0": "a", "7": "b"}}, r"numbers its classes \[0, 7\]"),
        ({"id2label": {"0": "a", "1": "a"}}, "two classes the name 'a'"),
        ({"id2label": {"0": "a", "1": 3}}, "not text|cannot be built"),
        ({"problem_type": "regression"}, "problem_type is regression"),
        ({"problem_type": "multi_label_classification"}, "problem_type is multi_label"),
        ({"num_hidden_layers": 3}, "lacks tensors"),
        ({"hidden_size": 8}, "do not fit"),
        ({"model_type": "no-such"}, "cannot be built as a text classifier"),
        ({"architectures": ["NoSuch"], "model_type": "no-such"}, "from its config"),
    ],
)  # fmt: skip
def test_a_classifier_whose_config_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = rewritten(write_classifier(tmp_path / "m"), **changes)
    with pytest.raises(InputError, match=said) as caught:
        open_model(folder).load()
    assert str(folder) in str(caught.value)
    assert not re.search(r"\n", str(caught.value))


def test_a_prompt_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    for name in ("bert", "t5", "bart"):
        model = open_model(WRITERS[name](tmp_path / name)).load()
        ask = model.class_scores if name == "bert" else model.generate
        with pytest.raises(InputError, match="does not fit the context"):
            ask(["a" * 60])


def test_without_an_image_processor_an_image_classifier_is_refused(tmp_path: Path) -> None:
    folder = write_image_classifier(tmp_path / "m")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="has no usable image processor"):
        open_model(folder).load()


def test_a_head_of_two_classes_is_not_taken_for_a_copy_of_the_two_token_types(tmp_path: Path) -> None:
    """Its config says that words are tied, and both have the same shape."""
    weights = open_weights(rewritten(write_classifier(tmp_path / "m"), tie_word_embeddings=True))
    assert "classifier.weight" in weights.names()
    assert not weights.aliases()


def _roberta(**changes: Any) -> Any:
    from transformers import RobertaConfig

    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return RobertaConfig(**small, max_position_embeddings=40, initializer_range=0.6, **changes)


def _gpt2(**changes: Any) -> Any:
    from transformers import GPT2Config

    return GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=40, initializer_range=0.6, **changes)


@pytest.mark.parametrize(
    ("config", "pad"), [(_roberta, 0), (_roberta, 3), (_gpt2, 0), (_gpt2, 3), (_gpt2, None)],
)  # fmt: skip
def test_other_architectures_classify_as_transformers_has_it(
    tmp_path: Path, config: Callable[..., Any], pad: int | None
) -> None:
    """Some count places from behind the padding's number on, some find the last token by it, or cannot without one."""
    from tiny_models import character_tokenizer
    from transformers import AutoModelForSequenceClassification

    tokenizer = character_tokenizer()
    torch.manual_seed(1)
    made = config(vocab_size=len(tokenizer), pad_token_id=pad, num_labels=3)
    AutoModelForSequenceClassification.from_config(made).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    model = open_model(tmp_path / "m").load()
    for prompt, row in zip(PROMPTS, model.class_scores(PROMPTS), strict=True):
        with torch.inference_mode():
            logits = model.model(input_ids=torch.tensor([model.tokenizer(prompt).input_ids])).logits[0]
        assert torch.allclose(row, logits.log_softmax(-1), atol=1e-5)
    longest = "a" * model.context
    assert model.class_scores([longest]).isfinite().all()
    with pytest.raises(InputError, match="does not fit the context"):
        model.class_scores([longest + "a"])
