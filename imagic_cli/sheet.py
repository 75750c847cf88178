"""Contact sheets: many pictures in one, with labelled axes."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_LARGEST_CELL = 512
# So that a hundred by a hundred pictures still make one that memory holds and viewers open.
_LARGEST_SIDE = 10_000
_SMALLEST_CELL = 16
# Pixels of a cascade's base are made larger, whole, until people can see them.
_SEEN = 96
_TITLE_LINES = 3

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    cells: Sequence[Sequence[Image.Image | None]], columns: Sequence[str], rows: Sequence[str], title: str = ""
) -> Image.Image:
    """Lay pictures out in a grid on white, none of them larger than 512 pixels, or less where they are very many.

    Where all are smaller than 96 pixels, each of their pixels becomes a square of several.

    Args:
        cells: one sequence for each row, one picture for each column; None stays empty.
        columns: labels above, for example "eta 0.600".
        rows: labels on the left, for example "seed 3".
        title: a line above all, for example the target text.

    Returns:
        The sheet in mode RGB.

    Raises:
        ValueError: there is no picture, or the labels and the cells do not agree in number.
    """
    if len(cells) != len(rows) or any(len(row) != len(columns) for row in cells):
        raise ValueError("a contact sheet takes one label for each row and column of cells")
    limit = min(_LARGEST_CELL, max(_SMALLEST_CELL, _LARGEST_SIDE // max(len(rows), len(columns), 1)))
    largest = max((side for row in cells for cell in row if cell is not None for side in cell.size), default=0)
    if not largest:
        raise ValueError("a contact sheet takes at least one picture")
    factor = max(1, min(-(-_SEEN // largest), limit // largest))
    small = [[_shown(cell, limit, factor) for cell in row] for row in cells]
    sizes = [cell.size for row in small for cell in row if cell is not None]
    return _Layout(max(size[0] for size in sizes), max(size[1] for size in sizes), columns, rows, title).draw(small)


class _Layout:
    """Where everything stands, in pixels.

    Args:
        width: of a cell.
        height: of a cell.
        columns: labels above.
        rows: labels on the left.
        title: the line above all.
    """

    def __init__(self, width: int, height: int, columns: Sequence[str], rows: Sequence[str], title: str) -> None:
        self.cell = (width, height)
        self.columns = [_one_line(text) for text in columns]
        self.rows = [_one_line(text) for text in rows]
        self.gap = max(2, width // 64)
        self.font = _fitting(self.columns, max(10, min(width, height) // 14), width)
        self.line = round(_extent(self.font, "Ag")[1] * 1.5)
        self.left = 2 * self.gap + max((_extent(self.font, text)[0] for text in self.rows), default=0)
        self.width = self.left + len(columns) * (width + self.gap)
        self.title = _wrapped(_one_line(title), self.font, self.width - 2 * self.gap)
        self.top = self.gap + self.line * (len(self.title) + 1)
        self.height = self.top + len(rows) * (height + self.gap)

    def draw(self, cells: Sequence[Sequence[Image.Image | None]]) -> Image.Image:
        """Draw cells of at most the layout's cell size, each in the middle of its place."""
        sheet = Image.new("RGB", (self.width, self.height), "white")
        pen = ImageDraw.Draw(sheet)
        for number, text in enumerate(self.title):
            pen.text((self.gap, self.gap + number * self.line), text, fill="black", font=self.font)
        for column, text in enumerate(self.columns):
            middle = self._corner(0, column)[0] + self.cell[0] // 2
            pen.text((middle, self.top - self.line // 2), text, fill="black", font=self.font, anchor="mm")
        for row, text in enumerate(self.rows):
            middle = self._corner(row, 0)[1] + self.cell[1] // 2
            pen.text((self.left - self.gap, middle), text, fill="black", font=self.font, anchor="rm")
            for column, cell in enumerate(cells[row]):
                if cell is not None:
                    x, y = self._corner(row, column)
                    sheet.paste(cell, (x + (self.cell[0] - cell.width) // 2, y + (self.cell[1] - cell.height) // 2))
        return sheet

    def _corner(self, row: int, column: int) -> tuple[int, int]:
        return self.left + column * (self.cell[0] + self.gap), self.top + row * (self.cell[1] + self.gap)


def _shown(cell: Image.Image | None, limit: int, factor: int) -> Image.Image | None:
    if cell is None:
        return None
    scale = limit / max(cell.size)
    image = cell.convert("RGB")
    if scale >= 1:
        return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    width, height = (max(1, round(side * scale)) for side in cell.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _extent(font: Font, text: str) -> tuple[int, int]:
    box = font.getbbox(text)
    return round(box[2] - min(box[0], 0)), round(box[3])


def _fitting(labels: Sequence[str], size: int, width: int) -> Font:
    """Pillow's own font, as large as lets every label fit, and never too small to draw."""
    font = ImageFont.load_default(size=size)
    widest = max((_extent(font, label)[0] for label in labels), default=0)
    return font if widest <= width else ImageFont.load_default(size=max(6, size * width // widest))


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    """Break at words into lines of at most `width` pixels; what does not fit into the last line is left out."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _extent(font, longer)[0] <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    kept = lines[:_TITLE_LINES]
    if len(lines) > _TITLE_LINES:
        kept[-1] += " ..."
    for number, line in enumerate(kept):
        line = line[:width]
        while len(line) > 4 and _extent(font, line)[0] > width:
            line = line[:-4] + "..."
        kept[number] = line
    return kept
