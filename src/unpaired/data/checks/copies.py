"""One image, or one label, under two names: by the content of the voxels."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from unpaired.data.checks.facts import Facts
from unpaired.data.checks.finding import Finding, Remark
from unpaired.data.paths import shown


def copies(facts: Sequence[Facts]) -> Iterator[Finding]:
    """Images that are there twice, in a modality, in two, in training and in test; equal labels."""
    yield from _images(facts)
    yield from _labels(facts)


def _images(facts: Sequence[Facts]) -> Iterator[Finding]:
    owners: dict[str, tuple[Facts, Path]] = {}
    for fact in facts:
        for digest, file in fact.digests:
            other, where = owners.setdefault(digest, (fact, file))
            # A manifest may name one file in two cases.
            if other is not fact or where != file:
                what = f"the same image as {shown(where)} ({other.modality} {other.case})".rstrip()
                mend = "remove one, or it may be in training and in test"
                if fact.held_out != other.held_out:
                    mend = "remove one: it is in training and in test"
                yield Remark("copy", "error", what, mend, "100 % of the voxels").about(
                    fact.modality, fact.case, file
                )


def _labels(facts: Sequence[Facts]) -> Iterator[Finding]:
    """In one modality: two modalities may share the label of a registered pair."""
    owners: dict[tuple[str, str], Facts] = {}
    for fact in facts:
        if not fact.label_digest:
            continue
        other = owners.setdefault((fact.modality, fact.label_digest), fact)
        images = {digest for digest, _ in other.digests}
        if other is not fact and images.isdisjoint(d for d, _ in fact.digests):
            what = f"the same label as {other.case}'s, though the images differ"
            mend = "see which image it belongs to"
            yield Remark("label-copy", "warning", what, mend, "100 % of the voxels").about(
                fact.modality, fact.case, fact.label
            )
