"""Writes a scene as PNG, with Pillow: a raster needs someone to draw its letters, and Pillow brings a font."""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

from io import BytesIO

from attndsl.viz.scene import Rect, Scene

SCALE = 2
"""Pixels of the picture per unit of the scene, so that it is sharp on dense screens."""


def to_png(scene: Scene) -> bytes:
    """The bytes of a PNG file. ImportError where Pillow (the extra `viz`) is not installed."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (round(scene.width * SCALE), round(scene.height * SCALE)), "#ffffff")
    draw = ImageDraw.Draw(image)
    anchors = {"start": "ls", "middle": "ms", "end": "rs"}
    for shape in scene.shapes:
        if isinstance(shape, Rect):
            left, top = round(shape.x * SCALE), round(shape.y * SCALE)
            right, bottom = round((shape.x + shape.width) * SCALE), round((shape.y + shape.height) * SCALE)
            fill = None if shape.fill == "none" else shape.fill
            outline = shape.stroke or None
            draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), fill, outline, width=SCALE)
        else:
            font = ImageFont.load_default(size=shape.size * SCALE)
            weight = 1 if shape.bold else 0
            place = (shape.x * SCALE, shape.y * SCALE)
            draw.text(
                place, shape.text, shape.colour, font, anchors[shape.anchor], stroke_width=weight // 2, stroke_fill=None
            )
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
