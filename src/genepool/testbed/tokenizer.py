"""The testbed's vocabulary, one token a character, and the fast tokenizer that ships with every model folder.

Training encodes with `encode`; the saved tokenizer gives the same ids (a test says so) and loads with AutoTokenizer.
"""

from __future__ import annotations

import string
from typing import Any

PAD, END, UNKNOWN = "<pad>", "<eos>", "<unk>"
VOCABULARY: tuple[str, ...] = (
    PAD,
    END,
    UNKNOWN,
    " ",
    *string.ascii_lowercase,
    *string.ascii_uppercase,
    *string.digits,
    *string.punctuation,
)
_IDS = {token: at for at, token in enumerate(VOCABULARY)}
PAD_ID, END_ID, UNKNOWN_ID = _IDS[PAD], _IDS[END], _IDS[UNKNOWN]


def encode(text: str) -> list[int]:
    """The token ids of `text`, one a character; no end token is added."""
    return [_IDS.get(character, UNKNOWN_ID) for character in text]


def fast_tokenizer(longest: int) -> Any:
    """A `PreTrainedTokenizerFast` of the vocabulary; pads on the left, as generating in batches needs.

    Args:
        longest: the model's context in tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(dict(_IDS), unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
    )
