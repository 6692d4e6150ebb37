"""The tables of docs/reference/mergekit.md, of what was measured and of the verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.mergekit import evolve_files, mixtures
from benchmarks.mergekit.answers import comparable, documents, golden_inputs, stored_genomes
from benchmarks.mergekit.parameters import VALUES
from benchmarks.mergekit.verdicts import COMMANDS, EVERY_MERGE, INPUTS, KEYS, Verdict, of_method, of_parameter

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "mergekit.md"
_BEGIN = "<!-- Written by `python -m benchmarks.mergekit`. -->\n"
_END = "<!-- End of what it writes. -->\n"
_NOT_RUN = "not run"


def tables(record: Mapping[str, Any]) -> str:
    """All tables, as Markdown.

    Args:
        record: what `python -m benchmarks.mergekit` writes to measured.json.
    """
    evidence = _Evidence(record)
    lines = [
        f"Measured with mergekit {record['versions']['mergekit']} and torch {record['versions']['torch']}.",
        *_table("Commands", ("Command", "Option"), _commands(record, evidence)),
        *_table("Files", ("Part", "Key"), _keys(record, evidence)),
        *_table("Merge methods and their parameters", ("`merge_method`", "Parameter"), _methods(record, evidence)),
        *_table("Inputs", ("Input", ""), ((name, "", one, evidence.case(one)) for name, one in INPUTS.items())),
    ]
    return "\n".join(lines) + "\n"


def written(page: str, record: Mapping[str, Any]) -> str:
    """The text of the page with the tables of a record between its marks."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{tables(record)}\n{_END}{after}"


#: Its two names, the verdict, and the largest difference.
_Row = tuple[str, str, Verdict, str]


class _Evidence:
    """Which measurements a row rests on."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._cases: Mapping[str, float | str] = record["cases"]
        self._by_use: dict[str, list[float]] = {}
        inputs = golden_inputs()
        for name, _ in comparable():
            read = documents(name, inputs)
            kind = "recipes" if len(read) == 1 else "several documents"
            self._add({kind, *(word for one in read for word in used(one))}, record["recipes"].get(name))
        for method, values in VALUES.items():
            self._add({method, *(f"{method}.{name}" for name in values)}, record["parameters"].get(method))
        for name, told in stored_genomes().items():
            uses = {"evolve.genome", *(f"genome.{key}" for key in told["genome"])}
            self._add(uses, record["genomes"].get(name))
        for name, mixture in mixtures.MIXTURES.items():
            self._add({"mixtures", *mixtures.used(mixture)}, record["mixtures"].get(name))
        for name, file in evolve_files.FILES.items():
            self._add({"evolve files", *evolve_files.used(file)}, record["evolve"].get(name))

    def _add(self, words: Iterable[str], difference: float | None) -> None:
        for word in words:
            self._by_use.setdefault(word, []).extend([] if difference is None else [difference])

    def use(self, word: str) -> str:
        """Over all stored answers that use something; empty where none does."""
        if word not in self._by_use:
            return ""
        return _figure(max(self._by_use[word])) if self._by_use[word] else _NOT_RUN

    def case(self, one: Verdict) -> str:
        """Of the case that a verdict names; empty for none."""
        if not one.case:
            return ""
        return self.use(one.case) or _figure(self._cases.get(one.case, _NOT_RUN))


def used(document: Mapping[str, Any]) -> Iterator[str]:
    """What a recipe uses: `part.key`, the method's name, and `method.parameter`."""
    method = document["merge_method"]
    yield method
    waiting: list[tuple[str, Mapping[str, Any]]] = [("recipe", document)]
    while waiting:
        part, data = waiting.pop()
        yield from (f"{part}.{key}" for key in data)
        yield from (f"{method}.{name}" for name in data.get("parameters") or ())
        waiting += [("source or model", one) for key in ("models", "sources") for one in data.get(key) or ()]
        waiting += [("slice", one) for one in data.get("slices") or ()]
        waiting += [("module", one) for one in (data.get("modules") or {}).values()]
        waiting += [("tokenizer", data["tokenizer"])] if data.get("tokenizer") else []


def _commands(record: Mapping[str, Any], evidence: _Evidence) -> Iterator[_Row]:
    for command, names in record["commands"].items():
        for name in names:
            one = COMMANDS[command][name]
            yield f"`{command}`", f"`{name}`", one, evidence.case(one)
    for name in record["every merge"]:
        yield "every merge", f"`{name}`", EVERY_MERGE[name], ""


def _keys(record: Mapping[str, Any], evidence: _Evidence) -> Iterator[_Row]:
    for part, names in record["keys"].items():
        for name in names:
            one = KEYS[part][name]
            yield part, f"`{name}`", one, evidence.case(one) or evidence.use(f"{part}.{name}")


def _methods(record: Mapping[str, Any], evidence: _Evidence) -> Iterator[_Row]:
    for method, names in record["methods"].items():
        yield f"`{method}`", "", of_method(method), evidence.use(method) or _NOT_RUN
        for name in names:
            one = of_parameter(method, name)
            assert one is not None
            yield f"`{method}`", f"`{name}`", one, evidence.use(f"{method}.{name}") or _NOT_RUN


def _table(title: str, heads: tuple[str, str], rows: Iterable[_Row]) -> list[str]:
    lines = ["", f"### {title}", "", f"| {heads[0]} | {heads[1]} | Verdict | Here | Largest difference |"]
    lines.append("|---|---|---|---|---|")
    lines += [f"| {one} | {two} | {verdict.status} | {verdict.here} | {figure} |" for one, two, verdict, figure in rows]
    return lines


def _figure(value: float | str) -> str:
    if isinstance(value, str):
        return value.replace("|", "\\|")
    return f"{value:.1e}" if value else "0"
