"""What a study leaves beside its SQLite file, read back: `best.json`, `history.jsonl` and `collection.jsonl`.

All three may come from somebody else, so every value that is used is checked here, and other keys are let through. Used
by whoever looks at a finished study: the run itself, `collection`, `--fork` and the report.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from genepool.checked import is_number, parsed_json
from genepool.errors import InputError
from genepool.evolution.candidates import HAIR
from genepool.schema import validate

BEST_FILE, HISTORY_FILE, COLLECTION_FILE = "best.json", "history.jsonl", "collection.jsonl"
STORE_FILE, POPULATION_FOLDER, WINNER_FOLDER = "study.sqlite", "population", "winner"

# Means and their intervals, which rounding may carry a hair over the ends.
Share = Annotated[float, Field(ge=-HAIR, le=1 + HAIR)]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Amount = Annotated[float, Field(ge=0)]
_Record = TypeVar("_Record", bound=BaseModel)


class _Loose(BaseModel):
    """Known keys are checked, unknown ones kept: a later version may say more."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Estimate(_Loose):
    n: Count
    mean: Share
    lo: Share
    hi: Share


class _Tested(_Loose):
    name: str
    kind: str
    fingerprint: str
    test: dict[str, _Estimate]


class _Finalist(_Loose):
    id: str
    generation: Count
    index: Annotated[int, Field(ge=-1)]
    searched: Share | None
    fitness: Share


class _Cost(_Loose):
    seconds: Amount = 0.0
    cpu_seconds: Amount = 0.0
    examples: Count = 0


class _Vote(_Loose):
    asked: Count
    members: list[str] = []
    test: dict[str, _Estimate] = {}


class _Gene(_Loose):
    parameter: str
    skill: str | None
    layers: Annotated[list[Count], Field(min_length=2, max_length=2)] | None
    role: str | None
    value: float


class _Best(_Loose):
    strategy: str
    vary: str = ""
    genome: dict[str, Any]
    genes: list[_Gene] | None = None
    fitness: Share
    fingerprint: str
    valid: dict[str, Share]
    test: dict[str, Share]
    evaluations: Count
    seed: Count
    id: str = ""
    generation: Count = 0
    index: Annotated[int, Field(ge=-1)] = 0
    finalists: list[_Finalist] = []
    models: list[_Tested] = []
    curse: dict[str, float] = {}
    recipe: dict[str, Any] | None = None
    tasks_dir: str = ""
    ledger: str = ""
    cost: _Cost = _Cost()
    notices: list[str] = []
    ensemble: _Vote | None = None
    forked_from: str = ""


class _Line(_Loose):
    id: str
    generation: Count
    index: Count
    genome: dict[str, Any]
    genes: list[_Gene] | None = None
    fitness: Share | None
    valid: dict[str, Share]
    seconds: Amount
    cached: bool
    fingerprint: str = ""
    parents: list[str] = []


class _MemberRecord(_Loose):
    name: str
    group: str
    scores: dict[str, float]
    quality: str = ""


def read_best(path: Path) -> dict[str, Any]:
    """What `best.json` says; every key that is used is there, or has a harmless default where it is read.

    Raises:
        InputError: it is not there, or not the record of a finished study; the key is named.
    """
    fix = "Remove the file and run `genepool evolve` on this study again; it repeats no finished evaluation"
    return _checked(_Best, _text(path, fix), path, "not the record of a finished study", fix)


def read_history(path: Path) -> Iterator[dict[str, Any]]:
    """The candidates of `history.jsonl`, one dictionary each; none where there is no file.

    Raises:
        InputError: a line is not a candidate; the line and the key are named.
    """
    fix = "Run `genepool evolve` on this study again; it writes the file anew"
    if path.is_file():
        for number, line in enumerate(_text(path, fix).splitlines(), start=1):
            found = _checked(_Line, line, path, f"line {number} is not a candidate", fix)
            yield {**found, "parents": tuple(found.get("parents", ()))}


class GenePlace(NamedTuple):
    """What one number of a genome stands for.

    Attributes:
        parameter: the merge parameter it sets.
        skill: the skill it belongs to; None when all share it.
        layers: first and last layer it covers; None when layers are not split.
        role: the tensor role it covers; None when roles are not split, or for those the study does not list.
    """

    parameter: str
    skill: str | None
    layers: tuple[int, int] | None
    role: str | None


def genes_with_values(genes: Sequence[Mapping[str, Any]], genome: Mapping[str, Any]) -> dict[str, Any]:
    """The key `genes` of a record: what each number of a genome stands for, and the number.

    Args:
        genes: what the numbers stand for, by `name`; empty where a genome is something else than numbers.
        genome: the numbers by name.

    Returns:
        `{"genes": [{parameter, skill, layers, role, value}]}`; empty without genes.
    """
    told = [
        {**{key: part for key, part in gene.items() if key != "name"}, "value": genome[gene["name"]]}
        for gene in genes
        if gene["name"] in genome
    ]
    return {"genes": told} if told else {}


def genes_of(record: Mapping[str, Any], parameters: Collection[str]) -> dict[GenePlace, float]:
    """The numbers of a candidate's genome by what they stand for, in the order of the genome.

    Args:
        record: a line of `history.jsonl`, or `best.json`.
        parameters: the parameters that the study searched, for a record that has the names of genes alone, as
            early studies wrote it.
    """
    if record.get("genes") is None:
        return _genes_by_name(record["genome"], parameters)
    return {
        GenePlace(
            gene["parameter"],
            gene["skill"],
            None if gene["layers"] is None else (gene["layers"][0], gene["layers"][1]),
            gene["role"],
        ): float(gene["value"])
        for gene in record["genes"]
    }


# Names of genes in records without `genes`: "reverse.weight[layers 0-1, attention]".
_NAME = re.compile(r"(?P<head>.+?)(?:\[(?:layers (?P<first>\d+)-(?P<last>\d+))?(?:, )?(?P<role>\w+)?\])?")


def _genes_by_name(genome: Mapping[str, Any], parameters: Collection[str]) -> dict[GenePlace, float]:
    """Genes as far as their names tell what they stand for."""
    places = {name: _place_by_name(name, parameters) for name, value in genome.items() if is_number(value)}
    return {place: float(genome[name]) for name, place in places.items() if place is not None}


def _place_by_name(name: str, parameters: Collection[str]) -> GenePlace | None:
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    for parameter in parameters:
        skill, dot, end = match["head"].rpartition(parameter)
        if end == "" and dot and (skill == "" or skill.endswith(".")):
            layers = (int(match["first"]), int(match["last"])) if match["first"] else None
            return GenePlace(parameter, skill[:-1] or None, layers, match["role"])
    return None


def read_members(path: Path) -> Iterator[dict[str, Any]]:
    """The members of `collection.jsonl`, one dictionary each.

    Raises:
        InputError: a line is not a member; the line and the key are named.
    """
    fix = "Run `genepool evolve` on the study again"
    for number, line in enumerate(_text(path, fix).splitlines(), start=1):
        yield _checked(_MemberRecord, line, path, f"line {number} is damaged", fix)


def _text(path: Path, fix: str) -> str:
    if path.exists() and not path.is_file():
        raise InputError("is not a file", where=path, fix=fix)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=path, fix=fix) from None


def _checked(model: type[_Record], text: str, path: Path, what: str, fix: str) -> dict[str, Any]:
    try:
        data = parsed_json(text)
        validate(model, data, path)
    except ValueError as error:
        raise InputError(f"{what} ({error})", where=path, fix=fix) from None
    except InputError as error:
        key = error.where.removeprefix(str(path)).removeprefix(":")
        raise InputError(f"{what} ({key}{': ' if key else ''}{error.what})", where=path, fix=fix) from None
    assert isinstance(data, dict)
    return data
