"""Writes a scene as SVG: plain shapes, one path a colour run, no scripts, no fonts of its own."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from attndsl.viz.scene import Rect, Scene, Text


def to_svg(scene: Scene) -> str:
    """The text of an SVG document. Neighbouring rectangles of one colour share a path."""
    w, h = _n(scene.width), _n(scene.height)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img"'
        ' font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" shape-rendering="crispEdges">',
        f"<title>{escape(scene.title)}</title>",
    ]
    if scene.description:
        out.append(f"<desc>{escape(scene.description)}</desc>")
    out.append(f'<rect width="{w}" height="{h}" fill="#ffffff"/>')
    path: list[str] = []
    style = ""
    for shape in scene.shapes:
        wanted = _style(shape) if isinstance(shape, Rect) else ""
        if path and wanted != style:
            out.append(f'<path {style} d="{"".join(path)}"/>')
            path = []
        style = wanted
        if isinstance(shape, Rect):
            path.append(f"M{_n(shape.x)} {_n(shape.y)}h{_n(shape.width)}v{_n(shape.height)}h{_n(-shape.width)}z")
        else:
            out.append(_text(shape))
    if path:
        out.append(f'<path {style} d="{"".join(path)}"/>')
    return "\n".join([*out, "</svg>", ""])


def _style(rect: Rect) -> str:
    stroke = f" stroke={quoteattr(rect.stroke)}" if rect.stroke else ""
    return f"fill={quoteattr(rect.fill)}{stroke}"


def _text(text: Text) -> str:
    anchor = f' text-anchor="{text.anchor}"' if text.anchor != "start" else ""
    weight = ' font-weight="600"' if text.bold else ""
    place = f'x="{_n(text.x)}" y="{_n(text.y)}" font-size="{_n(text.size)}"'
    return f"<text {place}{anchor}{weight} fill={quoteattr(text.colour)}>{escape(text.text)}</text>"


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
