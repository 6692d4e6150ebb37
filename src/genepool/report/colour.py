"""The report's colours: one perceptual scale for scores in light and dark, and a palette for curves.

The scale runs evenly in lightness through OKLCH (Ottosson 2020), so equal steps of score look like equal steps and
it stays readable in grey and to colour-blind eyes. Writes CSS; uses nothing but the standard library.
"""

from __future__ import annotations

import math

STEPS = 40

# (lightness, chroma, hue in degrees) at the ends of the scale: pale sand to deep blue on paper, and the reverse
# direction of lightness on a dark page, where a bright cell is the one that stands out.
_LIGHT = ((0.975, 0.018, 105.0), (0.40, 0.115, 262.0))
_DARK = ((0.255, 0.035, 265.0), (0.86, 0.125, 118.0))

#: Curves: (light, dark) pairs after Okabe & Ito's colour-blind safe set, darkened or lightened for contrast.
CURVES = (
    ("#0b62a4", "#6cb8f0"),
    ("#b8500b", "#f0a35c"),
    ("#00795c", "#45c9a3"),
    ("#9a3f7d", "#e39bca"),
    ("#7a6a00", "#dccb4d"),
    ("#47505a", "#aeb8c2"),
)


def step(score: float) -> int:
    """The step of the scale, 0 to STEPS, for a score; what lies outside [0, 1] takes the nearest end."""
    return round(min(max(score, 0.0), 1.0) * STEPS)


def scale_css() -> str:
    """CSS classes `s0` ... `sN` that set `--cell` and `--on-cell`, background and text, for both themes."""
    lines = []
    for i in range(STEPS + 1):
        light, dark = scale_colour(i / STEPS, dark=False), scale_colour(i / STEPS, dark=True)
        ink = f"light-dark({readable_on(light)},{readable_on(dark)})"
        lines.append(f".s{i}{{--cell:light-dark({light},{dark});--on-cell:{ink}}}")
    return "\n".join(lines)


def curves_css() -> str:
    """CSS classes `c0` ... that set `--curve`, for both themes."""
    return "\n".join(f".c{i}{{--curve:light-dark({light},{dark})}}" for i, (light, dark) in enumerate(CURVES))


def curve_class(i: int) -> str:
    """The style sheet's class of curve `i`: beyond the palette the same colours come again, with broken lines."""
    return f"c{i % len(CURVES)}" + (f" again{min(i // len(CURVES), 2)}" if i >= len(CURVES) else "")


def scale_colour(t: float, *, dark: bool) -> str:
    """The scale at t in [0, 1], as "#rrggbb"."""
    (l0, c0, h0), (l1, c1, h1) = _DARK if dark else _LIGHT
    lightness, hue = l0 + t * (l1 - l0), h0 + t * (h1 - h0)
    # Chroma rises early and stays: the ends are quiet, the middle has the colour that tells scores apart.
    chroma = c0 + (c1 - c0) * math.sin(math.pi / 2 * t) ** 0.8
    while True:
        rgb = _linear_rgb(lightness, chroma, hue)
        if all(-1e-4 <= part <= 1 + 1e-4 for part in rgb) or chroma <= 0:
            return "#" + "".join(f"{round(255 * _gamma(min(max(part, 0.0), 1.0))):02x}" for part in rgb)
        chroma -= 0.004


def readable_on(background: str) -> str:
    """Black or white, whichever stands out more on a colour; one of them reaches a contrast of 4.5 on any."""
    return max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, background))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    first, second = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (first + 0.05) / (second + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _gamma(part: float) -> float:
    return float(12.92 * part if part <= 0.0031308 else 1.055 * part ** (1 / 2.4) - 0.055)


def _linear_rgb(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    """OKLCH to linear sRGB; the matrices are Ottosson's."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
