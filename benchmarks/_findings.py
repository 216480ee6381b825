"""The eight findings of docs/consistency.md in words, from the numbers of docs/consistency.json."""

import math
from collections.abc import Iterable, Mapping
from statistics import mean, median
from typing import Any

from unpaired.metrics.correlations import Described
from unpaired.tables import Table

Found = Mapping[str, Any]


def _each(values: Iterable[float], form: str = ".2g") -> str:
    return " / ".join(f"{value:{form}}" for value in values)


def _last(found: Found) -> list[Found]:
    return found["looks"][str(found["steps"])]


def _scale(found: Found) -> str:
    looks = found["looks"]
    size = [mean(look[0]["norm"].values()) for look in looks.values()]
    loss = [sum(d["across"] for d in look) for look in looks.values()]
    flat = [mean(d["entropy"].values()) for d in _last(found)]
    return (
        f"At steps {', '.join(looks)}: size of E at scale 1 {_each(size, '.3g')}; L_icr (τ = 4) "
        f"{_each(loss, '.3g')}. Entropy of its rows at the end, by scale: {_each(flat)} of "
        f"{math.log(found['classes']):.2f}. √d is {_each(found['root_of_width'])}."
    )


def _gauges(found: Found) -> str:
    last = _last(found)
    within = [f"{m}-{m} {_each(d['within'][m] for d in last)}" for m in last[0]["norm"]]
    logits, correlation = (100 * value for value in found["flipped_head"])
    return (
        f"Divergence by scale: {'; '.join(within)}; between the modalities "
        f"{_each(d['across'] for d in last)}, of which the modalities' mean E alone have "
        f"{_each((100 * s for s in found['offset_share']), '.0f')} %. A head turned round, and its "
        f"weight in F₁ₓ₁ with it, moves the auxiliary logits by {logits:.2g} % and E by "
        f"{correlation:.0f} %."
    )


def _absorbs(found: Found) -> str:
    alone, (kept, dropped, _) = found["modules_alone"], found["pulls"]["icr"]
    return (
        f"The network frozen, the modules alone: L_icr after {' / '.join(alone)} steps is "
        f"{_each(alone.values(), '.3g')}. Norm of its weighted gradient: {dropped:.3g} on what is "
        f"thrown away, {kept:.3g} on the segmenter."
    )


def _one_chain(found: Found) -> str:
    private, shared = (
        _each((Described(**d).ratio for d in scales), ".1f")
        for scales in (_last(found), found["shared"])
    )
    return f"Between over within, by scale: private {private}, shared {shared}."


def _embeddings(found: Found) -> str:
    start, (size, apart, aligned) = found["pulls_at_start"], found["gains"]
    return (
        f"Its gradient on the segmenter is {found['pulls']['mcr'][0]:.3g}. Its weighted pull on Q "
        f"is {start['mcr'][2] / start['aux'][2]:.2g} times L_aux's at the start. With Q aligned "
        f"wholly, a private W_Q gives the queries back but for {found['absorbed']:.1g} of their "
        f"norm. The gains of the modalities differ by {apart:.2g} (rms; from 1 by {size:.2g}), and "
        f"with L_mcr at 0 by {aligned:.2g}."
    )


def _pooled(found: Found) -> str:
    pairs = [pair for scale in found["pooled"] for pair in scale.values()]
    same, like = [100 * pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return (
        f"Of the row-centred E {min(same):.0f} to {max(same):.0f} % is the same for every i; its "
        f"correlation with the plain mean of the maps is {min(like):.2f} to {max(like):.2f} (over "
        "scales and modalities)."
    )


def _clipping(found: Found) -> str:
    norms, limit = found["seg_norms"], found["clip"]
    share = 100 * sum(n > limit for n in norms) / len(norms)
    return (
        f"Norm of L_seg's gradient: median {median(norms):.1f}, {min(norms):.1f} to "
        f"{max(norms):.1f}; above {limit:g}, where it is clipped, in {share:.0f} % of the steps."
    )


def _regime(found: Found) -> str:
    before, after = found["last_fifth"]
    gained = ", ".join(f"{m} {100 * before[m]:.1f} to {100 * after[m]:.1f}" for m in before)
    deep, full = found["unet_aux"]
    return (
        f"Validation Dice % over the last fifth: {gained}. On a residual U-Net the gradient of "
        f"L_aux has a cosine of {deep:.2f} with that of its deep supervision ({full:.2f} with that "
        "of the full-size loss)."
    )


FINDINGS = {
    "1. The maps grow, and the rows saturate": _scale,
    "2. Every modality's modules have a gauge of their own": _gauges,
    "3. What is thrown away absorbs the loss": _absorbs,
    "4. One chain of modules lowers the ratio": _one_chain,
    "5. L_mcr cannot reach the network": _embeddings,
    "6. E is pooled activation": _pooled,
    "7. Every step is clipped": _clipping,
    "8. The regime is wrong for a regulariser": _regime,
}


def section(found: Found) -> list[str]:
    """The section of docs/consistency.md."""
    rows = [(title, write(found)) for title, write in FINDINGS.items()]
    return [
        f"Preset phantom-benchmark, V3 with L_aux, {found['cases']} cases a modality, one seed, "
        f"{found['steps']} steps, {found['slices']} slices a modality: diagnostics, no results. "
        f"{found['machine']}",
        "",
        *Table(("finding", "measured"), rows, names=2).markdown(""),
    ]
