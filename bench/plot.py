"""Small SVG charts, without any library: bars of ratios on a logarithmic scale, and lines over a logarithmic x."""
import math
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, ROW, TOP = 860, 230, 110, 22, 50
GOOD, BAD, NEUTRAL, AXIS = "#3a7d44", "#b23a48", "#4a6fa5", "#888"
SERIES = ("#4a6fa5", "#b8860b", "#3a7d44", "#b23a48")


def svg(width, height, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            f'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n")


def text(x, y, words, anchor="start", fill="#222", size=12):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="{size}">{escape(str(words))}</text>'


def line(x1, y1, x2, y2, stroke=AXIS, dash=""):
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"{dashed}/>'


def scale(low, high, start, end):
    """A function that puts values on a logarithmic axis."""
    return lambda value: start + (math.log(value) - math.log(low)) / (math.log(high) - math.log(low)) * (end - start)


def ticks(low, high):
    """1, 2, 5 times powers of ten, from low to high."""
    found = [base * 10.0 ** power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for base in (1, 2, 5)]
    return [tick for tick in found if low * 0.999 <= tick <= high * 1.001]


def ratio_bars(title, bars):
    """bars: (label, ratio, wanted ratio or None, verdict). A bar begins at 1: to the right membox is faster; a black mark is what is wanted."""
    values = [value for _, ratio, wanted, _ in bars for value in (ratio, wanted) if value]
    low, high = min([0.5, *values]) / 1.1, max([2.0, *values]) * 1.1
    x = scale(low, high, LEFT, WIDTH - RIGHT)
    bottom = TOP + ROW * len(bars)
    parts = [text(10, 22, title, size=15)]
    for tick in ticks(low, high):
        parts += [line(x(tick), TOP - 6, x(tick), bottom, "#ddd"), text(x(tick), TOP - 10, f"{tick:g}", "middle", AXIS, 11)]
    for k, (label, ratio, wanted, verdict) in enumerate(bars):
        y = TOP + ROW * k + 3
        colour = {"met": GOOD, "MISSED": BAD}.get(verdict, NEUTRAL)
        from_x, to_x = sorted((x(1), x(ratio)))
        parts.append(f'<rect x="{from_x:.1f}" y="{y}" width="{max(to_x - from_x, 1):.1f}" height="{ROW - 7}" fill="{colour}"/>')
        parts += [text(LEFT - 8, y + 12, label, "end"), text(WIDTH - RIGHT + 10, y + 12, f"{ratio:.2f}" + (f" (≥ {wanted:.3g})" if wanted else ""))]
        if wanted:
            parts.append(f'<rect x="{x(wanted) - 1:.1f}" y="{y - 2}" width="2" height="{ROW - 3}" fill="black"/>')
    parts.append(line(x(1), TOP - 6, x(1), bottom, "#222"))
    return svg(WIDTH, bottom + 15, parts)


def lines_over(title, x_name, y_name, series):
    """series: {name: [(x, y), ...]}; the y axis begins at 0."""
    points = [point for line_points in series.values() for point in line_points]
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    top_value = max(y for _, y in points) * 1.15
    height, left, bottom = 360, 70, 310
    x = scale(low, high if high > low else low * 2, left + 20, WIDTH - 160)
    parts = [text(10, 22, title, size=15), line(left, bottom, WIDTH - 140, bottom), line(left, TOP, left, bottom), text(left, bottom + 36, x_name, fill=AXIS),
             text(10, TOP - 8, y_name, fill=AXIS)]

    def y(value):
        return bottom - value / top_value * (bottom - TOP)

    for k in range(5):
        value = top_value * k / 4
        parts += [line(left, y(value), WIDTH - 140, y(value), "#ddd"), text(left - 6, y(value) + 4, f"{value:.3g}", "end", AXIS, 11)]
    for value in sorted({x_value for x_value, _ in points}):
        parts.append(text(x(value), bottom + 16, f"{value:g}", "middle", AXIS, 11))
    for (name, line_points), colour in zip(series.items(), SERIES * len(series)):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line_points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" fill="{colour}"/>' for a, b in line_points]
        parts.append(text(x(line_points[-1][0]) + 10, y(line_points[-1][1]) + 4, name, fill=colour))
    return svg(WIDTH, height, parts)
