"""Tables as Markdown and CSV, and metrics as they are printed."""

import math

from unpaired.tables import ALL_MARKS, Table, escape, printed


def test_markdown_aligns_numbers_and_cannot_be_broken():
    table = Table(("class", "Dice (%)"), [("a|b*\nc", 1), ("mean", "2.0")], "Title")
    assert table.markdown() == [
        "**Title**", "", "| class | Dice (%) |", "| --- | ---: |", r"| a\|b\* c | 1 |",
        "| mean | 2.0 |",
    ]  # fmt: skip
    left = Table(("my_name", "b"), [("x_y", "")], names=2, mean=True)
    assert left.markdown(ALL_MARKS) == [
        "| my_name | b |", "| --- | --- |", r"| **x\_y** |  |",
    ]  # fmt: skip
    assert escape(r"<b>\`") == r"\<b\>\\\`"


def test_csv_keeps_every_digit_and_quotes():
    rows = [("x, y", 0.1 + 0.2, ""), ('"', 1, None)]
    assert Table(("a", "b", "c"), rows).csv() == ('a,b,c\n"x, y",0.30000000000000004,\n"""",1,\n')


def test_a_metric_is_printed_by_its_row():
    dice = printed("dice")
    assert (dice.heading, dice.number(0.8806), dice.higher_is_better) == ("Dice (%)", "88.1", True)
    assert dice.mean_and_deviation(0.881, 0.0204, 2) == ("88.1", " ± 2.0")
    assert dice.mean_and_deviation(0.881, 0.0, 1) == ("88.1", "")
    assert printed("asd_mm").number(math.nan) == "–"
    mine = printed("mine")
    assert (mine.heading, mine.number(0.12345, signed=True)) == ("mine", "+0.123")
    assert mine.higher_is_better is None
