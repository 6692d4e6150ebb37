"""The JSON files beside weights (configs, indices, settings), read in bounded work: they may be a stranger's.

Checkpoints, adapters, plans and what is carried along all read through here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genepool.bounded import read_bytes, refuse_values
from genepool.errors import InputError

# The tables of a tokenizer of 250,000 tokens take 35 MB, the index of a model of 100,000 tensors 10 MB.
MOST_BYTES = 200 * 10**6


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: as `read_json_value`, or it is not a JSON object.
    """
    value = read_json_value(path)
    if not isinstance(value, dict):
        raise InputError("is not a JSON object", where=path, fix="Fetch or write it again")
    return value


# What becomes of the keys and values of one object, in the order of the file.
Pairs = Callable[[list[tuple[str, Any]]], Any]


def read_json_value(path: Path, pairs: Pairs | None = None) -> Any:
    """What a JSON file holds.

    Args:
        path: the file.
        pairs: makes an object of its keys and values; a dict when None, in which the last of equal keys counts.

    Raises:
        InputError: it cannot be read, is not a regular file, is larger than any such file or holds more values, or is
            not JSON.
    """
    data = read_bounded(path)
    refuse_values(data, where=path, fix="Fetch or write it again")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not valid JSON ({error})", where=path, fix="Fetch or write it again") from None


def read_bounded(path: Path) -> bytes:
    """The bytes of a file that lies beside weights.

    Raises:
        InputError: it cannot be read, is not a regular file, or is larger than any such file.
    """
    return read_bytes(path, MOST_BYTES, fix="Fetch or write it again")
