"""The streams of the testbed, as folders that `genepool adapt --stream` takes: which examples, in which order.

Rows are made once for every stream and written as docs/reference/stream.md says. Uses `corruptions` and the digits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from genepool.seeding import numpy_generator
from genepool.tasks.models.digits import CLASSES, PIXELS, WHITE
from genepool.testbed.digits.images import Images
from genepool.testbed.streams.corruptions import CORRUPTIONS, corrupted
from genepool.testbed.streams.stream_folder import BATCH, ROUNDS, SEVERITIES, StreamFolder

#: Digits that the base of the open set was never shown.
UNKNOWN = (7, 8, 9)
# The commonest class of the long tail is so many times as frequent as the rarest one.
_TAIL = 10


STREAMS = (
    StreamFolder("mixed", "mixed"),
    StreamFolder("shuffled", "shuffled"),
    StreamFolder("correlated", "correlated"),
    StreamFolder("reset", "reset"),
    StreamFolder("gradual", "gradual", tuple(SEVERITIES)),
    *(StreamFolder(f"severity_{one}", "mixed", (one,)) for one in SEVERITIES),
    StreamFolder("label_shift", "shuffled", (2,), tail=True),
    StreamFolder("clean", "shuffled", clean=True),
    StreamFolder("swapped", "shuffled", clean=True, swapped=True),
)
#: The streams of the open set and of the convolutional network.
FEW_STREAMS = (StreamFolder("mixed", "mixed"), StreamFolder("clean", "shuffled", clean=True))


def write_stream(
    place: Path,
    what: StreamFolder,
    images: Images,
    source: Images,
    seed: int,
    unknown: tuple[int, ...] = (),
    shown: Callable[[Any], list[Any]] | None = None,
    shape: tuple[int, ...] = (PIXELS,),
) -> None:
    """Writes one stream.

    Args:
        place: an empty folder.
        what: which one.
        images: those of the test split.
        source: those of the training split, as the base was shown them.
        seed: of the testbed.
        unknown: digits that the base was never shown.
        shown: how 64 pixels are written; as they are when None.
        shape: of what is written.
    """
    settings = {
        "genepool_stream": 1, "name": what.name, "order": what.order, "batch": BATCH, "rounds": ROUNDS,
        "shape": list(shape),
    }  # fmt: skip
    (place / "stream.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    pixels = np.array(images.pixels, dtype=np.float64) / WHITE
    with open(place / "stream.jsonl", "w", encoding="utf-8") as file:
        for row in _rows(what, pixels, images.digits, seed):
            if shown is not None:
                row["input"] = shown(row["input"])
            if int(row["answer"]) in unknown:
                row["known"] = False
            file.write(json.dumps(row) + "\n")
    with open(place / "source.jsonl", "w", encoding="utf-8") as file:
        clean = (np.array(source.pixels, dtype=np.float64) / WHITE).round(3).tolist()
        for at, (image, digit) in enumerate(zip(clean, source.digits, strict=True)):
            if digit not in unknown:
                given = image if shown is None else shown(image)
                line = {"id": f"train-{at:04d}", "input": given, "answer": str(digit)}
                file.write(json.dumps(line) + "\n")


def _rows(what: StreamFolder, pixels: Any, digits: tuple[int, ...], seed: int) -> Iterator[dict[str, Any]]:
    """The lines of a stream, domain by domain."""
    if what.clean:
        for at, digit in enumerate(digits):
            image = pixels[at].round(3).tolist()
            yield {"id": f"clean-{at:04d}", "input": image, "answer": str(digit), "domain": "clean"}
        if what.swapped:
            for at, digit in enumerate(digits):
                image = pixels[at].round(3).tolist()
                # 0 and 1, 2 and 3, and so on: every even class becomes an odd one.
                yield {"id": f"swapped-{at:04d}", "input": image, "answer": str(digit ^ 1), "domain": "swapped"}
        return
    if what.tail:
        yield from _tailed(pixels, digits, what.severities[0], seed)
        return
    for name in CORRUPTIONS:
        for at, digit in enumerate(digits):
            severity = what.severities[at % len(what.severities)]
            yield _row(f"{name}-{at:04d}", corrupted(pixels[at], name, severity, seed, at), digit, name, severity)


def _tailed(pixels: Any, digits: tuple[int, ...], severity: int, seed: int) -> Iterator[dict[str, Any]]:
    """Noisy digits whose classes are long-tailed: low digits are common first, then high ones."""
    for domain in ("low", "high"):
        for at, digit in enumerate(digits):
            rank = digit if domain == "low" else CLASSES - 1 - digit
            share = _TAIL ** (-rank / (CLASSES - 1))
            if numpy_generator(seed, "long tail", domain, at).random() < share:
                image = corrupted(pixels[at], "noise", severity, seed, at)
                yield _row(f"{domain}-{at:04d}", image, digit, domain, severity)


def _row(key: str, image: Any, digit: int, domain: str, severity: int) -> dict[str, Any]:
    return {"id": key, "input": image.tolist(), "answer": str(digit), "domain": domain, "severity": severity}
