"""The frame of a page: one HTML file that needs nothing else."""

from importlib import resources

from unpaired.report.markup import Markup, tag

NOT_A_DEVICE = (
    "Research software, not a medical device: not for diagnosis, treatment or any other clinical "
    "decision."
)


def document(title: str, *body: object) -> str:
    """The whole page as text, with its style; no script, nothing from elsewhere."""
    style = resources.files("unpaired.report").joinpath("style.css").read_text(encoding="utf-8")
    # The policy makes the promise checkable.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{tag('title', title)}"
        f"<style>{style}</style></head>{tag('body', *body)}</html>\n"
    )


def footer() -> Markup:
    """What every page ends in."""
    return tag("footer", tag("p", NOT_A_DEVICE))
