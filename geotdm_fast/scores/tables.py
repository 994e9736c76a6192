"""Tables in plain text."""

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns under a header and a rule: numbers flush right, text flush left.

    None is an empty cell, floats have four significant digits.
    """
    cells = [[cell_text(cell) for cell in row] for row in [header, *rows]]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(_is_number(cell) for cell in column[1:]) for column in columns]

    def align(row: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()

    lines = [align(row) for row in cells]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]])


def _is_number(cell: str) -> bool:
    try:
        float(cell or 0)
    except ValueError:
        return False
    return True


def cell_text(value: object) -> str:
    """A cell's text: four significant digits for floats, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}"
    return str(value)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The same cells as a table of Markdown."""

    def line(cells: Sequence[object]) -> str:
        return f"| {' | '.join(cell_text(cell) for cell in cells)} |"

    return "\n".join([line(header), f"|{'---|' * len(header)}", *map(line, rows)])
