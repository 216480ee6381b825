"""HTML as strings that know whether they are escaped. Everything a user named is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

VOID = ("img",)


class Markup(str):
    """HTML that is already safe; any other string is escaped where it enters the page."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Escaped for the body and for attributes; `Markup` passes unchanged."""
    return value if isinstance(value, Markup) else Markup(escape(str(value), quote=True))


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """An element. Attributes: `cls` is class, `data_key` is data-key; None leaves one out."""
    parts = [
        f' {"class" if key == "cls" else key.replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    ]
    end = "" if name in VOID else f"</{name}>"
    return Markup(f"<{name}{''.join(parts)}>{join(content)}{end}")


def join(parts: Iterable[object]) -> Markup:
    """Parts one after the other, each escaped unless it is `Markup`."""
    return Markup("".join(text(part) for part in parts))


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], label: str, cls: str | None = None
) -> Markup:
    """A table that scrolls sideways on a narrow screen. The first column names the row.

    Cells that are `Markup` and begin with `<td` or `<th` are taken as they are.
    """
    top = join(tag("th", cell, scope="col") for cell in head)
    body = join(tag("tr", join(_cell(i, cell) for i, cell in enumerate(row))) for row in rows)
    inner = tag("table", tag("thead", tag("tr", top)), tag("tbody", body), cls=cls)
    return tag("div", inner, cls="scroll", role="region", aria_label=label, tabindex="0")


def _cell(column: int, cell: object) -> Markup:
    if isinstance(cell, Markup) and cell.startswith(("<td", "<th")):
        return cell
    return tag("th", cell, scope="row") if column == 0 else tag("td", cell)


def number(value: object, key: str | None = None) -> Markup:
    """A right-aligned cell."""
    return tag("td", value, cls="num", data_key=key)


def definitions(items: Mapping[str, object]) -> Markup:
    """A list of names and values."""
    return tag(
        "dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in items.items())
    )


def section(title: str, *content: object, anchor: str) -> Markup:
    """A part of the page with its heading."""
    return tag("section", tag("h2", title), *content, id=anchor)


def note(*content: object) -> Markup:
    """A short explanation under a table or picture."""
    return tag("p", *content, cls="note")


def folded(title: str, *content: object) -> Markup:
    """A part that opens on a click, without any script."""
    return tag("details", tag("summary", title), *content)
