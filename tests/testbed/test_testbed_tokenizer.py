"""The saved tokenizer: one token a character, there and back, and the same ids training used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.testbed.tokenizer import END_ID, PAD_ID, UNKNOWN_ID, VOCABULARY, encode, fast_tokenizer

characters = st.text(alphabet=[token for token in VOCABULARY if len(token) == 1], max_size=30)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    fast_tokenizer(64).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_it_loads_as_a_fast_tokenizer_with_its_special_tokens(tokenizer: Any) -> None:
    assert tokenizer.is_fast
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (PAD_ID, END_ID, UNKNOWN_ID)
    assert tokenizer.padding_side == "left"
    assert len(tokenizer) == len(VOCABULARY) == len(set(VOCABULARY))


@given(characters)
def test_text_comes_back_as_it_was(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text


@given(characters)
def test_training_and_tokenizer_agree_on_ids(tokenizer: Any, text: str) -> None:
    assert encode(text) == tokenizer(text)["input_ids"]


def test_unknown_characters_are_one_unknown_token_each(tokenizer: Any) -> None:
    assert tokenizer("aé\nb")["input_ids"] == encode("aé\nb")
    assert encode("é\n") == [UNKNOWN_ID, UNKNOWN_ID]


def test_the_end_token_vanishes_in_decoding(tokenizer: Any) -> None:
    assert tokenizer.decode([*encode("abc"), END_ID], skip_special_tokens=True) == "abc"
