"""What the measures are held against: scipy and scikit-learn where they have the same one, else the definition.

Every measure is asked about many inputs drawn from a seed, and the largest difference is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version

import numpy as np

from benchmarks.faithful.merges import FORMULA, RUN
from genepool import measure as ours
from genepool.faithful import HeldAgainst

_DEFINITION = "the definition, written a second time"


def _held(against: str, how: str, on: str, pairs: Iterable[tuple[float, float]], note: str = "") -> HeldAgainst:
    found = [(float(a), float(b)) for a, b in pairs]
    return HeldAgainst(against, how, on, "float64", len(found), max(abs(a - b) for a, b in found), note)


def _scipy(function: str) -> str:
    return f"scipy {version('scipy')}, `{function}`"


def _sklearn(function: str) -> str:
    return f"scikit-learn {version('scikit-learn')}, `{function}`"


def _wilson() -> HeldAgainst:
    from scipy.stats import binomtest

    counts = [(k, n) for n in (1, 2, 5, 20, 100) for k in range(n + 1)]
    theirs = [binomtest(k, n).proportion_ci(method="wilson") for k, n in counts]
    mine = [ours.wilson(k, n) for k, n in counts]
    pairs = [pair for a, b in zip(mine, theirs, strict=True) for pair in ((a.lo, b.low), (a.hi, b.high))]
    return _held(_scipy("binomtest(...).proportion_ci('wilson')"), RUN, "all counts of 1, 2, 5, 20 and 100", pairs)


def _mcnemar() -> HeldAgainst:
    from scipy.stats import binomtest

    flips = [(g, n - g) for n in (1, 2, 7, 30, 200) for g in range(n + 1)]
    pairs = [(ours.mcnemar(g, lost), binomtest(g, g + lost).pvalue) for g, lost in flips]
    return _held(_scipy("binomtest"), RUN, "all flips of 1, 2, 7, 30 and 200", pairs)


def _benjamini_hochberg(generator: np.random.Generator) -> HeldAgainst:
    from scipy.stats import false_discovery_control

    tests = [generator.random(n) ** 3 for n in (1, 2, 10, 100)]
    pairs = [
        pair
        for ps in tests
        for pair in zip(ours.benjamini_hochberg(ps.tolist()), false_discovery_control(ps), strict=True)
    ]
    return _held(_scipy("false_discovery_control"), RUN, "1, 2, 10 and 100 p-values", pairs)


def _holm(generator: np.random.Generator) -> HeldAgainst:
    pairs = []
    for count in (1, 2, 10, 40):
        ps = generator.random(count) ** 3
        for mine, p in zip(ours.holm(ps.tolist()), ps, strict=True):
            smaller = [min(1.0, q * (ps >= q).sum()) for q in ps if q <= p]
            pairs.append((mine, max(smaller)))
    return _held(_DEFINITION, FORMULA, "1, 2, 10 and 40 p-values", pairs)


def _detectable_difference() -> HeldAgainst:
    """The power of the exact test at the answer, added up over every number of flips and of gains."""
    from scipy.stats import binom

    pairs = []
    for n, disagreement in ((60, 0.3), (100, 0.2), (200, 0.5)):
        share = (disagreement + ours.detectable_difference(n, disagreement)) / (2 * disagreement)
        power = 0.0
        for flips in range(n + 1):
            gains = np.arange(flips + 1)
            rejected = np.array([ours.mcnemar(int(g), flips - int(g)) <= 0.05 for g in gains])
            power += binom.pmf(flips, n, disagreement) * binom.pmf(gains, flips, share)[rejected].sum()
        pairs.append((power, 0.8))
    return _held(
        "the power of the exact McNemar test, added up over all flips", FORMULA, "three runs of 60 to 200 examples",
        pairs, "the power at the answer against 0.8; the answer is exact to a thousandth of itself",
    )  # fmt: skip


def _agreement(generator: np.random.Generator) -> HeldAgainst:
    from scipy.stats import kendalltau

    pairs = []
    for _ in range(50):
        a, b = generator.integers(0, 5, 12), generator.integers(0, 5, 12)
        mine = ours.agreement(a, b).tau
        pairs.append((getattr(mine, "mean", mine), kendalltau(a, b).statistic))
    return _held(_scipy("kendalltau"), RUN, "50 pairs of 12 scores with ties", pairs, "tau-b")


def _calibration(generator: np.random.Generator) -> HeldAgainst:
    from sklearn.metrics import brier_score_loss, log_loss

    pairs = []
    for _ in range(5):
        sure = generator.beta(3, 2, 400)
        hits = (generator.random(400) < sure**2).astype(float)
        found = ours.calibration(sure, hits)
        pairs += [(found.brier.mean, brier_score_loss(hits, sure)), (found.log_loss, log_loss(hits, sure))]
    return _held(
        _sklearn("brier_score_loss`, `log_loss"), RUN, "5 times 400 answers", pairs, "Brier score and logarithmic loss"
    )


def _abstention(generator: np.random.Generator) -> HeldAgainst:
    from sklearn.metrics import roc_auc_score

    pairs = []
    for _ in range(5):
        sure, hits = generator.random(200).round(1), generator.integers(0, 2, 200)
        pairs.append((ours.abstention(sure, hits).auroc or 0.0, roc_auc_score(hits, sure)))
    return _held(_sklearn("roc_auc_score"), RUN, "5 times 200 answers with ties", pairs, "AUROC of the confidence")


def _continual(generator: np.random.Generator) -> HeldAgainst:
    """GEM, equations 2 to 4."""
    pairs = []
    for tasks in (2, 3, 7):
        r, b = generator.random((tasks, tasks)), generator.random(tasks)
        found = ours.continual_accuracy(r, b)
        last = tasks - 1
        pairs += [
            (found.average, sum(r[last, i] for i in range(tasks)) / tasks),
            (found.backward_transfer or 0.0, sum(r[last, i] - r[i, i] for i in range(last)) / last),
            (found.forward_transfer or 0.0, sum(r[i - 1, i] - b[i] for i in range(1, tasks)) / last),
        ]
    return _held(_DEFINITION, FORMULA, "accuracy matrices of 2, 3 and 7 tasks", pairs, "ACC, BWT and FWT")


def _lifelong(generator: np.random.Generator) -> HeldAgainst:
    from scipy.stats import theilslopes

    from genepool.measure.lifelong import _theil_sen

    values = [generator.random(n) for n in (2, 3, 10, 50)]
    pairs = [(_theil_sen(one.tolist()), theilslopes(one).slope) for one in values]
    return _held(_scipy("theilslopes"), RUN, "4 courses of 2 to 50 values", pairs, "the slope of the recovery times")


def _complementary(generator: np.random.Generator) -> HeldAgainst:
    pairs = []
    for n in (5, 60, 400):
        student, teacher = generator.integers(0, 2, n).astype(float), generator.integers(0, 2, n).astype(float)
        found = ours.complementary(student, teacher)
        pairs += [
            (found.rho_pos.mean, sum(s == 0 and t == 1 for s, t in zip(student, teacher, strict=True)) / n),
            (found.rho_neg.mean, sum(s == 1 and t == 0 for s, t in zip(student, teacher, strict=True)) / n),
        ]
    return _held(_DEFINITION, FORMULA, "5, 60 and 400 examples", pairs, "rho_pos and rho_neg")


def _compatibility(generator: np.random.Generator) -> HeldAgainst:
    pairs = []
    for n in (5, 60, 400):
        old, new = generator.integers(0, 2, n).astype(float), generator.integers(0, 2, n).astype(float)
        found = ours.compatibility(old, new)
        pairs += [
            (found.negative_flips.mean, sum(a == 1 and b == 0 for a, b in zip(old, new, strict=True)) / n),
            (found.positive_flips.mean, sum(a == 0 and b == 1 for a, b in zip(old, new, strict=True)) / n),
        ]
    return _held(_DEFINITION, FORMULA, "5, 60 and 400 examples", pairs, "MUSCLE's NFR, and the flips for the better")


def measure() -> dict[str, list[HeldAgainst]]:
    """Function of `genepool.measure` -> what it is held against."""
    generator = np.random.default_rng(7)
    return {
        "abstention": [_abstention(generator)],
        "agreement": [_agreement(generator)],
        "benjamini_hochberg": [_benjamini_hochberg(generator)],
        "calibration": [_calibration(generator)],
        "compatibility": [_compatibility(generator)],
        "complementary": [_complementary(generator)],
        "continual_accuracy": [_continual(generator)],
        "detectable_difference": [_detectable_difference()],
        "holm": [_holm(generator)],
        "lifelong_metrics": [_lifelong(generator)],
        "mcnemar": [_mcnemar()],
        "wilson": [_wilson()],
    }
