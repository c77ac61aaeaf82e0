"""Draws quality over bytes, one panel a task, as an SVG without any library."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT, GAP = 940, 470, 62, 46, 370, 300, 82
COLORS = ["#c0392b", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17a2b8", "#ff7f0e", "#555555", "#9a9a00"]
REFERENCES = {"linear": "the head alone", "full": "full fine-tuning"}
PANELS = {"digits": "Digits: accuracy in % (higher is better)",
          "museum": "Museum: validation loss in nats (lower is better)"}


def text(x, y, words, size=13, anchor="start", color="#222", more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{color}" {more}>{escape(words)}</text>'


def nice_step(span):
    raw = span / 5
    power = 10 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)


def shorter(value):
    return f"{value / 1e6:g} MB" if value >= 1e6 else f"{value / 1e3:g} KB" if value >= 1e3 else f"{value:g} B"


def marker(index, x, y, color):
    """Shape and filling tell ten methods apart without their colours."""
    fill = color if index < 5 else "#fff"
    style = f'fill="{fill}" stroke="{color}" stroke-width="1.8"'
    points = {1: [(-5, -5), (5, -5), (5, 5), (-5, 5)], 2: [(0, -6), (6, 5), (-6, 5)], 3: [(0, -7), (7, 0), (0, 7), (-7, 0)],
              4: [(0, 6), (6, -5), (-6, -5)]}
    if index % 5 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" {style}/>'
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in points[index % 5])
    return f'<polygon points="{corners}" {style}/>'


def panel(task, lines, methods, score, left):
    lines = [line for line in lines if line["task"] == task]
    scores = [score(line)[0] for line in lines]
    low, high = min(scores), max(scores)
    step = nice_step(high - low)
    low, high = step * math.floor(low / step), step * math.ceil(high / step)
    sizes = [math.log10(line["bytes"]) for line in lines]
    first, last = min(sizes) - 0.1, max(sizes) + 0.1

    def at(size, value):
        return left + PLOT_WIDTH * (size - first) / (last - first), TOP + PLOT_HEIGHT * (high - value) / (high - low)

    out = [text(left, TOP - 18, PANELS[task], 14, more='font-weight="bold"')]
    for index in range(round((high - low) / step) + 1):
        value = low + index * step
        y = at(first, value)[1]
        out.append(f'<path d="M{left} {y:.1f}H{left + PLOT_WIDTH}" stroke="#ddd"/>' + text(left - 8, y + 4, f"{value:g}", 12, "end"))
    for exponent in range(math.floor(first), math.ceil(last) + 1):
        for factor in (1, 3):
            size = math.log10(factor) + exponent
            if first <= size <= last:
                x = at(size, low)[0]
                out.append(f'<path d="M{x:.1f} {TOP}V{TOP + PLOT_HEIGHT}" stroke="#eee"/>'
                           + text(x, TOP + PLOT_HEIGHT + 18, shorter(factor * 10 ** exponent), 12, "middle"))
    out.append(text(left + PLOT_WIDTH / 2, TOP + PLOT_HEIGHT + 38, "bytes of the adapter folder (log scale)", 12, "middle"))
    for line in lines:
        if line["method"] in REFERENCES:
            x, y = at(math.log10(line["bytes"]), score(line)[0])
            out.append(f'<path d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10" stroke="#000" stroke-width="2"/>')
            anchor, shift = ("end", -9) if x > left + PLOT_WIDTH / 2 else ("start", 9)
            out.append(text(x + shift, y + 4, REFERENCES[line["method"]], 12, anchor))
    # NOLA is drawn last, and so on top.
    for index, method in reversed(list(enumerate(methods))):
        of = sorted((line for line in lines if line["method"] == method), key=lambda line: line["bytes"])
        points = [at(math.log10(line["bytes"]), score(line)[0]) for line in of]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        width = 2.6 if index == 0 else 1.3
        out.append(f'<path d="{path}" fill="none" stroke="{COLORS[index]}" stroke-width="{width}"/>')
        out += [marker(index, x, y, COLORS[index]) for x, y in points]
    return out


def legend(methods):
    out = []
    for index, method in enumerate(methods):
        x, y = LEFT + (index % 5) * 168, TOP + PLOT_HEIGHT + 74 + (index // 5) * 24
        out += [marker(index, x, y - 4, COLORS[index]), text(x + 13, y, method, 13)]
    return out


def draw(lines, score, path):
    methods = list(dict.fromkeys(line["method"] for line in lines if line["method"] not in REFERENCES))
    methods.sort(key=lambda method: method != "nola")
    body = [part for index, task in enumerate(PANELS)
            for part in panel(task, lines, methods, score, LEFT + index * (PLOT_WIDTH + GAP))]
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
                   'role="img" aria-labelledby="title desc" font-family="system-ui, sans-serif">\n'
                   '<title id="title">Quality over bytes of all adapters</title>\n'
                   '<desc id="desc">Mean over five seeds of each adapter at each budget of trainable parameters, on two tasks. '
                   'The numbers stand in benchmarks/README.md.</desc>\n'
                   f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n' + "\n".join(body + legend(methods)) + "\n</svg>\n")
