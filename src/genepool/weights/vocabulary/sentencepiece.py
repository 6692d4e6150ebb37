"""The tokens in a SentencePiece model (`tokenizer.model`), read from its protocol buffer without the library.

A model is a message whose field 1 repeats: a piece, a message with its text in field 1. The id of a piece is its place.
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto. Every length is checked: the file may
be a stranger's.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_PIECES, _TEXT = 1, 1


def pieces(data: bytes) -> list[str]:
    """The texts of all pieces, in the order of their ids.

    Raises:
        ValueError: it is no such file.
    """
    found: list[str] = []
    for number, value in _fields(data):
        if number == _PIECES and isinstance(value, bytes):
            texts = [inner for field, inner in _fields(value) if field == _TEXT and isinstance(inner, bytes)]
            if len(texts) != 1:
                raise ValueError(f"piece {len(found)} has {len(texts)} texts")
            found.append(texts[0].decode("utf-8"))
    if not found:
        raise ValueError("it holds no pieces")
    return found


def _fields(data: bytes) -> Iterator[tuple[int, bytes | None]]:
    """The number of every field of a message, with its bytes where it has a length."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
            yield number, None
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"field {number} has the unknown type {kind}")
        if size > len(data) - at:
            raise ValueError(f"field {number} runs over the end")
        yield number, data[at : at + size] if kind == _BYTES else None
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends within a number")
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number takes more than ten bytes")
