"""Bar charts in SVG, for light and dark pages alike."""

from html import escape

LABEL, BAR, VALUE = 340, 420, 70  # widths
LINE = 22
STYLE = """
text { font: 13px sans-serif; fill: #24292f; }
.title { font-weight: bold; }
.peer { fill: #8c959f; }
.ours { fill: #0969da; }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3; } .ours { fill: #4493f8; } }
"""


def bars(charts):
    """Draws charts one below the other; each is a title and (label, value) pairs."""
    body, y = [], 0
    for title, values in charts:
        y += LINE
        body.append(f'<text class="title" x="0" y="{y}">{escape(title)}</text>')
        y += 8
        highest = max(value for _, value in values)
        for label, value in values:
            width = max(1, value / highest * BAR)
            kind = "ours" if label.startswith("walsafe") else "peer"
            body.append(f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(label)}</text>'
                        f'<rect class="{kind}" x="{LABEL}" y="{y + 3}" width="{width:.1f}" height="{LINE - 6}"/>'
                        f'<text x="{LABEL + width + 6:.1f}" y="{y + 15}">{value:.{0 if value >= 100 else 1}f}</text>')
            y += LINE
        y += 10
    size = f'width="{LABEL + BAR + VALUE}" height="{y}" viewBox="0 0 {LABEL + BAR + VALUE} {y}"'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>\n'
            + "\n".join(body) + "\n</svg>\n")
