"""How every picture of the report looks: one type face, one set of colours, no global state."""

import base64
import io
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unpaired.names import printable

INK, MUTED, LINE = "#1b2733", "#5a6b7b", "#d9e0e6"
FONT = "DejaVu Sans"
DPI = 160


@dataclass(frozen=True)
class Picture:
    """A PNG, what a reader who cannot see it should know, and a caption.

    Attributes:
        name: of its file, without ".png".
        heading, detail: before the caption in bold, and after it small.
    """

    name: str
    png: bytes
    alt: str
    caption: str = ""
    cls: str = ""
    heading: str = ""
    detail: str = ""

    @property
    def base64(self) -> str:
        """The PNG as text, for the page."""
        return base64.b64encode(self.png).decode("ascii")


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure in inches with one pair of axes in the report's style."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)
    axes.tick_params(which="both", colors=MUTED, labelsize=8, length=0, labelfontfamily=FONT)
    return figure, axes


def grid(axes: Axes) -> None:
    """Quiet horizontal lines behind the data."""
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)


def title(axes: Axes, words: str) -> None:
    """A plain heading at the left; `$` is no mathematics."""
    axes.set_title(
        plain(words), loc="left", fontsize=10, color=INK, fontfamily=FONT, fontweight="bold", pad=9
    )


def axis_labels(axes: Axes, x: str, y: str) -> None:
    """Names of the axes."""
    axes.set_xlabel(x, fontsize=8.5, color=MUTED, fontfamily=FONT)
    axes.set_ylabel(y, fontsize=8.5, color=MUTED, fontfamily=FONT)


def legend_below(axes: Axes, columns: int) -> None:
    """The legend under the axes, where it hides nothing."""
    axes.get_figure(root=True).legend(  # type: ignore[union-attr]
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        prop={"family": FONT, "size": 8},
        labelcolor=INK,
        handlelength=1.8,
        columnspacing=1.4,
    )


def plain(words: object) -> str:
    """A user's words in a picture: one line, no mathematics, not too long."""
    line = printable(" ".join(str(words).split())).replace("$", r"\$")
    return line if len(line) <= 48 else line[:47] + "…"


def to_png(figure: Figure) -> bytes:
    """The figure as PNG, without the time of day: equal runs give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
