"""The options of `unpaired reproduce`."""

from pathlib import Path
from typing import Annotated

import typer

Which = Annotated[
    str | None,
    typer.Argument(
        metavar="EXPERIMENT",
        help="table1, table2, table4, table5, table6, table7, fig5, draws, three, scaling or "
        "comparators.",
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="NAME=FOLDER|phantom",
        help="A modality's name and folder, in the order first, second; or phantom.",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where everything goes.")]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="Seeds, or draws, of each row.")]
Jobs = Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time.")]
Quick = Annotated[bool, typer.Option("--quick", help="A smoke test of minutes, not a result.")]
Rows = Annotated[
    str | None, typer.Option("--rows", metavar="A;B", help="Only these rows, parted by ';'.")
]
Fixed = Annotated[
    bool, typer.Option("--one-split", help="The same split for all seeds, not one a seed.")
]
Dry = Annotated[bool, typer.Option("--plan", help="Only say what would be run.")]
Paper = Annotated[
    bool, typer.Option("--paper", help="These are the paper's data: print its numbers beside.")
]
Store = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", help="Also copy the records, without weights, here."),
]
Overlays = Annotated[
    bool, typer.Option("--overlays", help="Also a picture as Fig. 4: a case a modality, all rows.")
]
Stored = Annotated[
    Path | None,
    typer.Option("--results", metavar="DIR", help="Run nothing: write --page from stored records."),
]
Page = Annotated[Path, typer.Option("--page", metavar="FILE", help="Of --results.")]
