"""The bytes that a token of any tokenizer stands for: by them the tokens of two tokenizers are compared.

Mixed predictions (`genepool.composition.logits`) and the distillation across tokenizers (`genepool.training`) use it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"


def token_bytes(tokenizer: Any) -> dict[int, bytes]:
    """The bytes of every token but the special ones, by number.

    Byte-level tokens are read through their alphabet and SentencePiece's through its space and its byte tokens. A
    token of any other tokenizer is what the tokenizer makes of it alone.

    Args:
        tokenizer: transformers' tokenizer.
    """
    special = set(tokenizer.all_special_ids)
    read = _reader(tokenizer)
    return {number: read(text, number) for text, number in tokenizer.get_vocab().items() if number not in special}


def _reader(tokenizer: Any) -> Callable[[str, int], bytes]:
    """How a token of this tokenizer is read: a function of its text and its number."""
    decoders = _decoders(tokenizer)
    added = {str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
    if "ByteLevel" in decoders:
        alphabet = _byte_alphabet()

        def from_alphabet(text: str, _number: int) -> bytes:
            # An added token stands for its own text, which may not be of the alphabet.
            if text in added or any(letter not in alphabet for letter in text):
                return text.encode()
            return bytes(alphabet[letter] for letter in text)

        return from_alphabet
    if decoders & {"Metaspace", "ByteFallback", "Replace"}:

        def from_pieces(text: str, _number: int) -> bytes:
            one = _BYTE_TOKEN.fullmatch(text)
            return bytes([int(one[1], 16)]) if one else text.replace(_SPACE, " ").encode()

        return from_pieces
    return lambda _text, number: str(tokenizer.decode([number])).encode()


def _decoders(tokenizer: Any) -> set[str]:
    """The kinds of decoder of a fast tokenizer, nested ones too; none for a slow one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described = json.loads(backend.to_str()).get("decoder") if backend is not None else None
    found: set[str] = set()
    waiting = [described] if described else []
    while waiting:
        one = waiting.pop()
        found.add(one["type"])
        waiting += one.get("decoders") or []
    return found


def _byte_alphabet() -> dict[str, int]:
    """The byte of every letter of the byte-level alphabet: printable bytes stand for themselves, others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = {chr(byte): byte for byte in printable}
    for place, byte in enumerate(sorted(set(range(256)) - set(printable))):
        alphabet[chr(256 + place)] = byte
    return alphabet
