"""How every picture of the report looks: one type face, one set of colours, no global state."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from unpaired.datasets.dataset import canonical_name
from unpaired.names import printable

INK, MUTED, LINE = "#1b2733", "#5a6b7b", "#d9e0e6"
FONT = "DejaVu Sans"
DPI = 160

RED, GREEN, BLUE, YELLOW = "#e0352b", "#2fa84f", "#2f6fe4", "#e9b000"
# The paper's colours (its Fig. 4), in tones that read on white and on a grey image.
PAPER = {
    "spleen": RED,
    "right kidney": GREEN,
    "kidney right": GREEN,
    "left kidney": BLUE,
    "kidney left": BLUE,
    "liver": YELLOW,
    "ascending aorta": RED,
    "aa": RED,
    "left atrium": GREEN,
    "lac": GREEN,
    "left ventricle": BLUE,
    "lvc": BLUE,
    "myocardium": YELLOW,
    "lvm": YELLOW,
}
# Okabe and Ito's set, told apart by all common forms of colour vision.
SAFE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#B8A800")


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


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """A colour per foreground class: the paper's for its organs, otherwise a safe set.

    Of two organs that the paper gives one colour, one of its heart and one of its abdomen, the
    first keeps it.
    """
    names = list(classes)[1:]
    known: dict[str, str] = {}
    for name in names:
        colour = PAPER.get(canonical_name(name))
        if colour is not None and colour not in known.values():
            known[name] = colour
    more = [to_hex(colour) for colour in colormaps["tab20"].colors]  # type: ignore[attr-defined]
    rest = SAFE if not known else ("#8a4fbf", "#12a5a5", "#e87fb0", "#8c6239", *SAFE)
    spare = iter([c for c in (*rest, *more * 20) if c not in known.values()])
    return {name: known.get(name) or next(spare) for name in names}


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
