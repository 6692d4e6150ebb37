"""Predictions brought onto another vocabulary: what is kept, what is added up, what is lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.composition.logits.vocabulary_map import VocabularyMap
from genepool.tasks.token_bytes import token_bytes
from tests.tasks.tiny_models import SPECIAL, character_tokenizer, merging_tokenizer


def words(*vocabulary: str) -> Any:
    """A tokenizer with a token a character, numbered as given."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({text: n for n, text in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


def pieces() -> Any:
    """SentencePiece's kind: a sign for a space, and tokens of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "b", "ab", "\u2581a"]
    merges = [("a", "b"), ("\u2581", "a")]
    backend = Tokenizer(
        models.BPE({text: n for n, text in enumerate(vocabulary)}, merges, unk_token="<unk>", byte_fallback=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


def between(own: Any, lead: Any, padding: int = 0) -> VocabularyMap:
    return VocabularyMap.between(own, len(own), lead, len(lead) + padding)


def test_equal_vocabularies_need_nothing() -> None:
    found = between(character_tokenizer(), character_tokenizer())
    logits = torch.randn(2, 28)
    assert found.equal
    assert found.one_to_one
    assert found.mapped(logits) is logits
    assert found.uncovered(logits).tolist() == [0.0, 0.0]


def test_the_same_tokens_under_other_numbers_are_gathered() -> None:
    own, lead = words("<unk>", "</s>", "a", "b"), words("b", "<unk>", "a", "</s>")
    found = between(own, lead, padding=2)
    assert found.one_to_one
    assert not found.equal
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    assert found.mapped(logits).exp().tolist() == pytest.approx([0.4, 0.1, 0.3, 0.2, 0, 0])
    assert found.own_numbers(torch.tensor([[0, 3, 5]])).tolist() == [[3, 1, 0]]


def test_a_longer_token_goes_to_the_first_of_its_parts() -> None:
    """The mass of "ab" is added to "a", as chances and not as logits; the end of one is the end of the other."""
    own, lead = merging_tokenizer(), words("<unk>", "</s>", "a", "b", " ")
    found = between(own, lead)
    number = own.get_vocab()
    logits = torch.full((len(own),), float("-inf"))
    for text, chance in {"a": 0.2, "ab": 0.3, "abcd": 0.1, "Ġa": 0.15, "</s>": 0.2, "z": 0.05}.items():
        logits[number[text]] = torch.tensor(chance).log()
    mapped = found.mapped(logits).exp()
    assert not found.one_to_one
    assert mapped.tolist() == pytest.approx([0, 0.2, 0.6, 0, 0.15])
    assert found.uncovered(logits).item() == pytest.approx(0.05)


@settings(max_examples=5)
@given(st.integers(0, 10_000))
def test_no_mass_is_made_or_hidden(seed: int) -> None:
    """What arrives and what is told as lost are everything, for every pair of the tokenizers."""
    made = {"characters": character_tokenizer(), "merges": merging_tokenizer(), "pieces": pieces()}
    generator = torch.Generator().manual_seed(seed)
    for own in made.values():
        for lead in made.values():
            found = between(own, lead)
            logits = torch.randn(3, len(own), generator=generator)
            chances = found.mapped(logits).exp() if not found.equal else logits.softmax(-1)
            assert torch.allclose(chances.sum(-1) + found.uncovered(logits), torch.ones(3), atol=1e-5)


def test_bytes_of_tokens_are_those_of_what_they_write() -> None:
    assert {SPECIAL.index(one) for one in SPECIAL}.isdisjoint(token_bytes(merging_tokenizer()))
    for tokenizer in (character_tokenizer(), merging_tokenizer(), pieces()):
        number, found = tokenizer.get_vocab(), token_bytes(tokenizer)
        for text in ("a", "ab") if "ab" in number else ("a",):
            assert found[number[text]] == text.encode()
    merged, pieced = merging_tokenizer(), pieces()
    assert token_bytes(merged)[merged.get_vocab()["Ċ"]] == b"\n"
    assert token_bytes(merged)[merged.get_vocab()["Ġa"]] == b" a"
    assert token_bytes(pieced)[pieced.get_vocab()["<0xC3>"]] == b"\xc3"
    assert token_bytes(pieced)[pieced.get_vocab()["\u2581a"]] == b" a"
