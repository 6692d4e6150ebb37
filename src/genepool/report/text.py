"""Numbers and foreign text as the report writes them: points, intervals, durations, and safe characters.

Scores are shown in percent and differences in percentage points, one decimal. Uses the intervals of `measure`;
templates, figures and sections use it.
"""

from __future__ import annotations

import math
import re

from genepool.measure import Interval

DASH = "–"
MINUS = "−"

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_UNPAIRED = re.compile(r"[\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """The text with what no HTML or XML file can hold made visible: control characters and half surrogates."""
    text = text.replace("\r\n", "\n")
    text = _CONTROL.sub(lambda match: chr(0x2400 + ord(match[0])) if match[0] != "\x7f" else "\u2421", text)
    return _UNPAIRED.sub("\ufffd", text)


def shortened(text: str | None, limit: int = 600) -> str:
    """The text, or its beginning and how much was left out; empty when there is none."""
    if text is None:
        return ""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit:,} characters more)"


def percent(value: float | None) -> str:
    """A score in [0, 1] as percent without the sign: 0.9415 is "94.2"; a dash when there is none."""
    return DASH if value is None or not math.isfinite(value) else _signed(value, "")


def points(value: float | None) -> str:
    """A difference in percentage points, always signed: "+3.1", "−0.4", "0.0"; a dash when there is none."""
    return DASH if value is None or not math.isfinite(value) else _signed(value, "+")


def exact(value: float | None) -> str:
    """A number to six digits, as scripts and CSV files read it; empty when there is none."""
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def interval(score: Interval) -> str:
    """The 95% interval of a score: "93.0–95.3"; empty when there is none."""
    return f"{percent(score.lo)}–{percent(score.hi)}" if score.has_ends else ""


def score_text(score: Interval | None) -> str:
    """A score in percent with its interval behind it: "94.2 (93.0–95.3)"; a dash when there is none."""
    if score is None or not score.measured:
        return DASH
    return f"{percent(score.mean)} ({interval(score)})" if score.has_ends else percent(score.mean)


def points_interval(delta: Interval) -> str:
    """The 95% interval of a difference: "+1.2 to +4.5"; empty when there is none."""
    return f"{points(delta.lo)} to {points(delta.hi)}" if delta.has_ends else ""


def verdict(delta: Interval) -> str:
    """What a paired difference says: "ahead", "behind", or "no clear difference" when its interval holds zero."""
    if not delta.measured:
        return "not measured"
    if not delta.has_ends:
        return "no interval"
    if delta.lo > 0:
        return "ahead"
    return "behind" if delta.hi < 0 else "no clear difference"


def plain_interval(name: str, found: Interval) -> dict[str, float | None]:
    """An interval as JSON values: the mean under `name`, then `lo` and `hi`; None for what is not known."""
    known = [value if math.isfinite(value) else None for value in found]
    return dict(zip((name, "lo", "hi"), known, strict=True))


def duration(seconds: float | None) -> str:
    """Wall or processor time in two units at most: "41.2 s", "7 min 05 s", "3 h 12 min"."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    if round(seconds) < 3600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def divergence(value: float | None) -> str:
    """A divergence in nats: four decimals of a small one, else three digits; a dash where it is no number."""
    return "–" if value is None else f"{value:.4f}" if value < 0.1 else f"{value:.3g}"


def count(value: int | None) -> str:
    """A whole number with thousands separated; a dash when there is none."""
    return DASH if value is None else f"{value:,}"


def compact(value: float) -> str:
    """A parameter's value: three significant digits where that is enough."""
    text = f"{value:.2f}" if abs(value) < 10 else f"{value:.3g}"
    return (MINUS + text[1:]) if text.startswith("-") and float(text) != 0 else text.lstrip("-")


def _signed(value: float, plus: str) -> str:
    text = f"{100 * value:.1f}"
    if float(text) == 0:
        return "0.0"
    return MINUS + text[1:] if value < 0 else plus + text
