"""The texts and where they belong: source files of installed packages, the split by a hash of the file's name.

No file and no text is in two splits. Which texts are drawn depends on the seed and on the versions of the packages.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from random import Random

from genepool.errors import InputError
from genepool.seeding import derive
from genepool.testbed.data import SPLITS, Split
from genepool.testbed.sentences.tasks import TextOrigin, TextTask

# Texts of a class that a file gives in one turn of all files. There are turns until there are enough texts, so no file
# decides what a class looks like where there are many.
PER_TURN = 2
# Files that are larger are left out: nobody wrote them by hand.
_LARGEST = 400_000


@dataclass(frozen=True)
class Text:
    """One text and the class it belongs to."""

    text: str
    label: str


@cache
def splits_of(package: str, endings: tuple[str, ...]) -> dict[Path, Split]:
    """The split of every file of a package with these endings: 60% train, 15% valid, 25% test of the files.

    The files stand in the order of the hashes of their names, so the same files are in the same splits for every seed
    and every task that reads them.
    """
    folder = _folder(package)
    files = [one for one in _files(package) if one.suffix in endings]
    files.sort(key=lambda file: hashlib.sha256(file.relative_to(folder).as_posix().encode()).digest())
    shares = [(at + 0.5) / len(files) for at in range(len(files))]
    names: list[Split] = ["train" if share < 0.60 else "valid" if share < 0.75 else "test" for share in shares]
    return dict(zip(files, names, strict=True))


def gather(task: TextTask, counts: dict[Split, int], seed: int) -> dict[Split, list[Text]]:
    """Texts of every class of a task, as many of each as of any other, in an order of chance.

    Args:
        task: whose texts.
        counts: texts of each class, by split.
        seed: of the order in which files and their texts are drawn.

    Raises:
        InputError: a package is not installed, or has too few texts.
    """
    found: dict[Split, list[Text]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    for label, origin in task.origins.items():
        missing = dict(counts)
        for split, texts in _in_turns(origin, derive(seed, "texts", task.name, label)):
            fresh = {_key(one): one for one in texts if not (task.unsaid and _names_a_class(one, task))}
            kept = [key for key in fresh if key not in seen][: missing[split]]
            seen.update(kept)
            found[split] += [Text(fresh[key], label) for key in kept]
            missing[split] -= len(kept)
            if not any(missing.values()):
                break
        short = next((split for split in SPLITS if missing[split]), None)
        if short:
            raise InputError(
                f"the installed files have {counts[short] - missing[short]} texts of the class '{label}' for the "
                f"{short} split, expected {counts[short]}",
                where=", ".join(name or "the standard library" for name in origin.packages),
                fix=f"Install the packages whole, or leave out the task {task.name} with --skills",
            )
    for split, rows in found.items():
        Random(derive(seed, "order", task.name, split)).shuffle(rows)
    return found


def _in_turns(origin: TextOrigin, seed: int) -> Iterator[tuple[Split, list[str]]]:
    """The files of an origin in turns, each with its split and the few texts that it gives in this turn."""
    left: list[tuple[Split, list[str]]] = []
    for split, texts in _files_in_order_of_chance(origin, seed):
        yield split, texts[:PER_TURN]
        left.append((split, texts[PER_TURN:]))
    while left := [(split, texts) for split, texts in left if texts]:
        for split, texts in left:
            yield split, texts[:PER_TURN]
        left = [(split, texts[PER_TURN:]) for split, texts in left]


def _files_in_order_of_chance(origin: TextOrigin, seed: int) -> Iterator[tuple[Split, list[str]]]:
    """Every file's split and its texts, shuffled; packages take turns."""
    rows = []
    for package in origin.packages:
        splits = splits_of(package, origin.endings)
        files = sorted(splits)
        Random(derive(seed, package)).shuffle(files)
        rows.append([(package, file, splits[file]) for file in files])
    for package, file, split in (one for turn in zip_longest(*rows) for one in turn if one):
        try:
            content = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        texts = list(dict.fromkeys(origin.read(content)))
        Random(derive(seed, package, file.relative_to(_folder(package)).as_posix())).shuffle(texts)
        yield split, texts


def _key(text: str) -> str:
    """What two texts that count as the same share: case, digits and spaces do not tell them apart."""
    return "".join(letter for letter in text.lower() if not letter.isspace() and not letter.isdigit())


def _names_a_class(text: str, task: TextTask) -> bool:
    return any(label in text.lower() for label in task.classes)


@cache
def _folder(package: str) -> Path:
    """Where the files of a package lie.

    Raises:
        InputError: it is not installed.
    """
    if not package:
        return Path(sysconfig.get_paths()["stdlib"])
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise InputError("this package, whose files are texts, is not installed", where=package, fix="Install it")
    return Path(found.submodule_search_locations[0])


@cache
def _files(package: str) -> tuple[Path, ...]:
    """The files of a package in the order of their names; of the standard library, those of its own folder only."""
    folder = _folder(package)
    # Below it lie the installed packages, where Python has no environment of its own.
    paths = folder.rglob("*") if package else folder.glob("*")
    kept = (path for path in paths if path.is_file() and path.stat().st_size <= _LARGEST)
    return tuple(sorted(kept, key=lambda path: path.relative_to(folder).as_posix()))


def write_items(path: Path, task: TextTask, split: Split, texts: Sequence[Text]) -> None:
    """One JSON object a line: {"id", "prompt", "answer", "choices"}."""
    with open(path, "w", encoding="utf-8") as file:
        for at, one in enumerate(texts):
            row = {
                "id": f"{task.name}-{split}-{at:04d}",
                "prompt": one.text,
                "answer": one.label,
                "choices": list(task.classes),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
