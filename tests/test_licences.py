"""What genepool is built on may be used by everybody: every dependency, near or far, has a permissive licence."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

# MPL 2.0 binds changes of its own files alone.
_PERMISSIVE = (
    r"MIT|BSD|0BSD|Apache|ISC|PSF|Python Software Foundation|[Zz]lib|CC0|BSL-1\.0|CNRI-Python|Unlicense|Public Domain|"
    r"HPND|Historical Permission Notice|MPL-2\.0|Mozilla Public License 2\.0|LLVM-exception"
)
_BINDING = r"\b[AL]?GPL|General Public License|Proprietary|Commercial|NonCommercial|CC-BY-NC"


# What lm-eval brings along, in the extra `eval` alone, and what Gymnasium draws its lander with, in `landers` alone;
# nothing of ours imports either.
_KNOWN = {"chardet", "pygame-ce"}


def _licence(found: Distribution) -> str:
    said = found.metadata.get("License-Expression")
    classified = [line for line in found.metadata.get_all("Classifier", []) if line.startswith("License ::")]
    return said or "; ".join(classified) or (found.metadata.get("License") or "").strip()


def _needed(extras: tuple[str, ...]) -> dict[str, Distribution]:
    """Everything that is installed and that genepool needs, with all that those need."""
    found: dict[str, Distribution] = {}
    waiting = [("genepool", extras)]
    while waiting:
        name, wanted = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            found[key] = distribution(name)
        except PackageNotFoundError:
            # An extra that is not installed here.
            continue
        for line in found[key].requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                waiting.append((needed.name, tuple(needed.extras)))
    return found


def test_everything_may_be_used_by_everybody() -> None:
    found = _needed(
        ("hub", "ray", "digits", "environments", "landers", "sentences", "images", "parquet", "gguf", "eval")
    )
    assert len(found) > 30
    licences = {name: _licence(one) for name, one in found.items()}
    wrong = {
        name: said
        for name, said in licences.items()
        if name not in _KNOWN
        and (not re.search(_PERMISSIVE, said) or (re.search(_BINDING, said) and " OR " not in said))
    }
    assert not wrong


def test_a_binding_licence_is_told() -> None:
    for said in ("GPL-3.0-only", "License :: OSI Approved :: GNU Affero General Public License v3", "LGPL-2.1"):
        assert re.search(_BINDING, said)
        assert not re.search(_PERMISSIVE, said)
