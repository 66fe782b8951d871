"""The ratios as bars: one panel for each corpus, in SVG, by hand.

Owns the drawing; refuses to compute a figure. The axis is logarithmic, 1 in the middle of attention: bars to its left are Lifeboat's.
"""

import math
from xml.sax.saxutils import escape

import report

# (key of a measurement, name, colour): told apart by place and label too, not by colour alone.
BARS = [("wall_s", "wall time", "#0072b2"), ("cpu_s", "CPU time", "#e69f00"), ("size", "size (first), growth (later)", "#009e73")]
COLUMNS, WIDTH, LABELS, BAR, GAP, TOP, MARGIN = 2, 640, 160, 13, 12, 62, 14
LEAST, MOST = 0.01, 10.0
INK, PALE = "#222222", "#d8d8d8"


def bars_of(corpus):
    """What is drawn: [(row's title, [(colour, ratio to the best, ratio to restic, limit)])]."""
    found, limits = corpus["summary"], {(row, key): limit for row, key, limit in corpus["limits"]}
    lines = []
    for row, title in report.ROW_TITLES.items():
        drawn = []
        for key, _, colour in BARS:
            if key == "size":
                if row not in report.BACKUPS:
                    continue
                key = "repository_bytes" if row == "first" else "growth_bytes"
            value = report.ratio(found, row, key)
            if value:
                drawn.append((colour, value, report.ratio(found, row, key, "restic"), limits.get((row, key))))
        if drawn:
            lines.append((title, drawn))
    return lines


def text(x, y, said, anchor="start", size=12, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{INK}"{more}>{escape(said)}</text>'


def line(x, top, bottom, colour, more=""):
    return f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="{colour}"{more}/>'


def height_of(lines):
    return TOP + sum(len(drawn) * BAR + GAP for _, drawn in lines) + 24


def panel(name, lines, left, top):
    start, end = left + LABELS, left + WIDTH - 56
    place = lambda value: start + (end - start) * math.log(min(MOST, max(LEAST, value)) / LEAST) / math.log(MOST / LEAST)
    bottom = top + height_of(lines) - 24
    parts = [text(left, top + 26, name, size=16, more=' font-weight="bold"')]
    for tick in [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]:
        parts.append(line(place(tick), top + TOP - 10, bottom, INK if tick == 1 else PALE, ' stroke-width="1.2"' if tick == 1 else ""))
        parts.append(text(place(tick), top + TOP - 15, f"{tick:g}", "middle", 10))
    y = top + TOP
    for title, drawn in lines:
        parts.append(text(start - 8, y + len(drawn) * BAR / 2 + 4, title, "end"))
        for colour, value, restic, limit in drawn:
            one, here = place(1), place(value)
            shape = f'x="{min(one, here):.1f}" y="{y + 1.5:.1f}" width="{max(1.0, abs(one - here)):.1f}" height="{BAR - 3}"'
            parts.append(f'<rect {shape} fill="{colour}"/>')
            if limit:
                parts.append(line(place(limit), y, y + BAR, "#cc0000", ' stroke-width="2"'))
            if restic:
                parts.append(f'<circle cx="{place(restic):.1f}" cy="{y + BAR / 2:.1f}" r="3.4" fill="white" stroke="{INK}"/>')
            beyond = " \u2192" if value > MOST else " \u2190" if value < LEAST else ""
            parts.append(text(max(one, here) + 6, y + BAR - 3, report.shown(value) + beyond, size=10))
            y += BAR
        y += GAP
    return parts


def svg(result):
    """The whole picture."""
    panels = [(name, bars_of(corpus)) for name, corpus in result["corpora"].items()]
    columns = max(1, min(COLUMNS, len(panels)))
    width = columns * WIDTH + MARGIN * 2
    parts, y = [text(MARGIN, 28, "Lifeboat's figure over the best peer's (log scale; left of 1 is Lifeboat's win)", size=18)], 50
    x = MARGIN
    for _, said, colour in BARS:
        parts += [f'<rect x="{x}" y="{y - 10}" width="22" height="11" fill="{colour}"/>', text(x + 28, y, said)]
        x += 60 + 7 * len(said)
    parts += [f'<circle cx="{x + 4}" cy="{y - 4}" r="3.4" fill="white" stroke="{INK}"/>', text(x + 14, y, "of restic")]
    parts += [line(x + 98, y - 11, y + 2, "#cc0000", ' stroke-width="2"'), text(x + 106, y, "aimed for")]
    y += 10
    for at in range(0, len(panels), columns):
        together = panels[at : at + columns]
        for number, (name, lines) in enumerate(together):
            parts += panel(name, lines, MARGIN + number * WIDTH, y)
        y += max(height_of(lines) for _, lines in together)
    facts = ", ".join(result["tools"].values()) + "; an arrow: the bar goes on"
    parts += [text(MARGIN, y + 14, f"scale {result['scale']:g}; {result['machine']['cores']} cores; {facts}"[:260], size=9)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + 26}" viewBox="0 0 {width} {y + 26}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{width}" height="{y + 26}" fill="white"/>', *parts, "</svg>\n"])
