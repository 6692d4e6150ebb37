"""The table of a sweep, and each class by name that is not as it should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.architectures.checks import Found

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "architectures.md"
_INTRODUCTION = """<!-- The table and the lists are written by `python -m benchmarks.architectures --update`. -->

# Architectures

Every class of transformers' `AutoModel*` mappings is asked the same: is the merge of one model that model, and does a
LoRA adapter on all of its linear layers merge as PEFT merges it? Each is built small: transformers' default config with
two layers, few experts, a vocabulary of 128 and narrower matrices, with random weights. A class counts as that model if

- its files hold the same tensors under the same names with the same bits, and config.json says the same;
- transformers loads the same state from both, with the same names missing, and computes the same outputs.

An adapter's factors are random. Tensors must be within 1e-5 of PEFT's `merge_and_unload` in float32, outputs within
1e-3. PEFT's merge of a saved adapter is not always the model that was trained: it can leave out factors when it loads
them (it warns), and it adds the changes of tied tensors to all of them. There the model that was trained decides.

```console
$ python -m benchmarks.architectures --record benchmarks/architectures/record.jsonl --update   # goes on from there
$ python -m benchmarks.architectures --only bert T5ForConditionalGeneration
```

"""


def table(results: Sequence[Found]) -> str:
    """The table and the lists, as Markdown."""
    built = [one for one in results if one.identity not in ("not built", "not saved")]
    same = [one for one in built if one.identity == "same"]
    computed = [one for one in same if one.outputs.startswith("same")]
    asked = [one for one in same if one.outputs != "no inputs found"]
    adapted = [one for one in same if one.lora not in ("no linear layers", "not by PEFT", "")]
    equal = [one for one in adapted if one.lora == "same"]
    trained = [one for one in adapted if one.lora == "as trained"]
    others = [one for one in adapted if one not in equal]
    rows = [
        ("classes checked", results, None),
        ("built small, saved and loaded again by transformers", built, results),
        ("the merge of one model is that model, bit for bit and key for key, as stored and as loaded", same, built),
        ("of those for which inputs were found: equal outputs", computed, asked),
        ("LoRA on all linear layers, where PEFT makes one: merged as PEFT merges it", equal, adapted),
        ("of the others: merged as it was trained, which PEFT's merge of the saved adapter is not", trained, others),
    ]
    lines = ["| | classes | |", "|---|---|---|", *(_row(*row) for row in rows)]
    lines += _named("Not as transformers or PEFT has it", [one for one in results if one.wrong])
    lines += _named(
        "Not built small, or not saved and loaded, by transformers here", [one for one in results if one not in built]
    )
    lines += _named("Merged as trained, and otherwise by PEFT", trained)
    lines += _named("No adapter by PEFT", [one for one in same if one.lora == "not by PEFT"])
    return "\n".join(lines)


def write(results: Sequence[Found], known: int) -> None:
    """Puts the table into the page.

    Args:
        results: of the classes that were checked.
        known: how many there are.
    """
    import transformers

    whole = "all of them" if len(results) == known else f"{len(results):,} of the {known:,}"
    PAGE.write_text(
        f"{_INTRODUCTION}Checked with transformers {transformers.__version__}: {whole}.\n\n{table(results)}\n"
    )


def _row(what: str, these: Sequence[Found], those: Sequence[Found] | None) -> str:
    return f"| {what} | {len(these)} | {'' if those is None else f'of {len(those)}'} |"


def _named(title: str, found: Sequence[Found]) -> list[str]:
    if not found:
        return []
    lines = ["", f"## {title}", ""]
    reasons = Counter(one.reason for one in found)
    for reason, count in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])):
        names = ", ".join(f"`{one.name}`" for one in found if one.reason == reason)
        what = {_what(one) for one in found if one.reason == reason}
        lines.append(f"- {names}: {', '.join(sorted(what))}. {reason}" if count else "")
    return lines


def _what(one: Found) -> str:
    if one.identity != "same":
        return one.identity
    return f"adapter: {one.lora}" if one.lora not in ("", "same", "no linear layers") else f"outputs {one.outputs}"
