"""The curves of a training: the loss of every step, and of every validation, with the state that was written.

Draws with the report's svg, colour and text rooms; the page of a training uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from genepool.report.svg import Scale, dots, element, number, polyline, ticks

Points = Sequence[tuple[float, float]]

#: Dots drawn at most; beyond it an even sample, so that a long training stays a small page.
DOTS = 2000


def training_figure(
    steps: Points, validations: Points, written: int, *, label: str, width: float, height: float
) -> Markup:
    """The picture, in a view box of `width` x `height` pixels; empty where there is nothing to draw.

    Args:
        steps: (step, value) of the training examples, as dots.
        validations: (step, value) of the validation examples, as a line.
        written: the step whose state was written.
        label: what the values are.
    """
    values = [value for _, value in (*steps, *validations)]
    if not values:
        return Markup("")
    left, right, top, bottom = 44.0, 20.0, 14.0, 40.0
    x = Scale(0, max(at for at, _ in (*steps, *validations)), left, width - right)
    y = Scale(min(0.0, min(values)), max(values) * 1.04 or 1.0, height - bottom, top)
    parts = [_axes(x, y, height)]
    shown = steps[:: -(-len(steps) // DOTS) or 1]
    parts.append(element("path", class_="dots c0", d=dots((x(at), y(value)) for at, value in shown)))
    if len(validations) > 1:
        parts.append(element("path", class_="best c1", d=polyline([(x(at), y(value)) for at, value in validations])))
    chosen = next((value for at, value in validations if at == written), None)
    if chosen is not None:
        parts.append(element("path", class_="spots c1", d=dots([(x(written), y(chosen))])))
        parts.append(element("text", "written", class_="tick end", x=x(written) - 8, y=y(chosen) - 8))
    spoken = f"{label}: {len(steps)} steps and {len(validations)} validations; the state of step {written} was written"
    return element(
        "svg",
        element("title", spoken),
        *parts,
        class_="chart",
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
    )


def _axes(x: Scale, y: Scale, height: float) -> Markup:
    parts: list[Markup] = []
    for value in ticks(y.low, y.high, 4):
        at = y(value)
        parts.append(element("line", class_="grid", x1=x.start, x2=x.end, y1=at, y2=at))
        parts.append(element("text", f"{value:g}", class_="tick end", x=x.start - 8, y=at + 4))
    parts.append(element("line", class_="axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start))
    for value in ticks(0, x.high, 6):
        if value == int(value):
            parts.append(element("line", class_="axis", x1=x(value), x2=x(value), y1=y.start, y2=y.start + 4))
            parts.append(element("text", f"{int(value):,}", class_="tick middle", x=x(value), y=y.start + 18))
    parts.append(element("text", "steps", class_="label middle", x=(x.start + x.end) / 2, y=height - 5))
    return element("g", *parts)
