"""The paper's tables as data: a row is a name and what it changes in the recipe."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Who = Literal["all", "alone"]


def as_overrides(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Full name -> value, as `key=value`."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in settings.items())


_NO_CR = ("loss.beta=0", "loss.gamma=0")
_V1, _V2, _V3 = (f"model.variant={name}" for name in ("V1", "V2", "V3"))
HEART, ABDOMEN = "paper-cardiac-2d", "paper-abdomen-3d"
"""Presets for the paper's data."""
PHANTOM: Mapping[str, str] = {HEART: "phantom-benchmark", ABDOMEN: "phantom-benchmark-3d"}
"""Preset for the paper's data -> that for the phantom, with a narrow form of the same network."""
PRINTED: Mapping[str, Any] = {"model.maps": "raw", "loss.tau": 4.0, "loss.mask_absent": False}
"""The consistency as the paper prints it; its weights α, β, γ it does not print."""
_PRINTED = as_overrides(PRINTED)
TAUS = (1, 2, 3, 4, 5, 6, 8, 10)
"""Of Fig. 5, whose values the paper does not print."""


class Network(NamedTuple):
    """A network as a table names it: `model.backbone` (a comparator's name) and `data.dims`."""

    name: str
    dims: int

    def __str__(self) -> str:
        words = {"swin_unet": "Swin-Unet", "nnformer": "nnFormer"}
        return f"{words.get(self.name, self.name)} {self.dims}D"


NETWORKS: Mapping[str, Network] = {HEART: Network("swin_unet", 2), ABDOMEN: Network("nnformer", 3)}
"""Preset for the paper's data -> the network of its tables."""


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: as in the column `row` of published.csv.
        overrides: what the row changes in the recipe, `key=value`.
        who: "all" trains one network on all modalities, "alone" one on each.
        shots: (role, cases): of this modality (0 the first, 1 the second) only so many training
            cases; all of the others.
        at_test: what is changed in the trained model only before it is tested.
        recipes: (preset of the study, preset of this row): where a network cannot take the
            common recipe, such as one that sees volumes.
        ours: with this project's consistency also where the study's preset is the paper's.
        printed_as: its name in published.csv, where that is another.
    """

    name: str
    overrides: tuple[str, ...] = ()
    who: Who = "all"
    shots: tuple[int, int] | None = None
    at_test: tuple[str, ...] = ()
    recipes: tuple[tuple[str, str], ...] = ()
    ours: bool = False
    printed_as: str = ""


@dataclass(frozen=True)
class Experiment:
    """Rows that are read together.

    Attributes:
        name: as on the command line.
        table: the number of the paper's table; none for a figure or an experiment of ours.
        reference: the row that the others are compared with.
        also: further comparisons: (row, the row it is compared with).
        modalities: how many it takes.
        seeds: by default.
        tau: the rows are points of a curve over the temperature.
        preset: for the paper's data; none for an experiment that the paper does not have.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    reference: str
    table: str | None = None
    modalities: int = 2
    seeds: int = 5
    tau: bool = False
    preset: str | None = None
    also: tuple[tuple[str, str], ...] = ()

    @property
    def comparisons(self) -> tuple[tuple[str, str], ...]:
        """(row, the row it is compared with), those with the reference first."""
        others = [row.name for row in self.rows if row.name != self.reference]
        return (*((name, self.reference) for name in others), *self.also)

    @property
    def organs(self) -> str:
        """What the paper's data show."""
        return {HEART: "the heart", ABDOMEN: "abdominal organs"}.get(self.preset or "", "")

    @property
    def network(self) -> Network | None:
        """The paper's for this table; None for an experiment of ours."""
        return NETWORKS.get(self.preset or "")

    @property
    def phantom(self) -> str:
        """The preset for scans of the phantom."""
        return PHANTOM.get(self.preset or "", PHANTOM[HEART])

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


BACKBONE = Row("Backbone", (_V2, "loss.alpha=0", *_NO_CR), "alone")
BASELINE = Row("Baseline", (_V2, *_NO_CR), "alone")
V1, V2, V3 = (
    Row(f"Joint {name}", (variant, *_NO_CR))
    for name, variant in (("V1", _V1), ("V2", _V2), ("V3", _V3))
)
V1_CR, V2_CR = (
    Row(f"Joint {name} (w/ CR)", (variant, *_PRINTED))
    for name, variant in (("V1", _V1), ("V2", _V2))
)
AS_PRINTED = Row("Ours, as printed", (_V3, *_PRINTED), printed_as="Ours (w/ CR)")
OURS = Row("Ours", (_V3,), ours=True)
PAYER = Row(
    "Payer et al.",
    ("model.name=payer", "data.dims=3", "data.patch=none", "data.plane=none"),
    "alone",
    recipes=(("phantom-benchmark", "payer-phantom"), (HEART, "payer-3d")),
)
UMMKD = Row("UMMKD", ("model.name=ummkd",))
SHARINGS = ("all", "encoder", "decoder", "middle")
VALINDRIA = tuple(
    Row(f"Valindria et al. {n}", ("model.name=valindria", f"model.options.sharing={n}"))
    for n in SHARINGS
)

_CLAIM = tuple((row.name, BASELINE.name) for row in (AS_PRINTED, OURS))
"""The paper's other claim: joint training with consistency against one modality alone."""
_VARIANTS = (BACKBONE, BASELINE, V1, V2, V3, V1_CR, V2_CR, AS_PRINTED, OURS)
_PAPER = (
    Experiment(
        "table1",
        "Table 1: beside networks of others",
        (PAYER, UMMKD, BACKBONE, BASELINE, V2, V3, AS_PRINTED, OURS),
        "Baseline",
        table="1",
        preset=HEART,
    ),
    Experiment(
        "table2",
        "Table 2: beside networks of others",
        (UMMKD, BACKBONE, BASELINE, V2, V3, AS_PRINTED, OURS),
        "Baseline",
        table="2",
        preset=ABDOMEN,
    ),
    Experiment(
        "table4",
        "Table 4: few annotated cases of one modality",
        (
            BASELINE,
            AS_PRINTED,
            OURS,
            Row("One annotated MRI", AS_PRINTED.overrides, shots=(1, 1)),
            Row("Three annotated MRI", AS_PRINTED.overrides, shots=(1, 3)),
            Row("One annotated CT", AS_PRINTED.overrides, shots=(0, 1)),
            Row("Three annotated CT", AS_PRINTED.overrides, shots=(0, 3)),
        ),
        "Baseline",
        table="4",
        preset=HEART,
    ),
    Experiment(
        "table5",
        "Table 5: variants",
        _VARIANTS,
        "Joint V3",
        table="5",
        preset=HEART,
        also=_CLAIM,
    ),
    Experiment(
        "table6",
        "Table 6: variants",
        _VARIANTS,
        "Joint V3",
        table="6",
        preset=ABDOMEN,
        also=_CLAIM,
    ),
    Experiment(
        "table7",
        "Table 7: the parts of the consistency",
        (
            V3,
            Row("Joint V3 + L_mcr", (_V3, *_PRINTED, "loss.gamma=0")),
            Row("Joint V3 + L_icr", (_V3, *_PRINTED, "loss.beta=0")),
            AS_PRINTED,
            OURS,
        ),
        "Joint V3",
        table="7",
        preset=ABDOMEN,
    ),
    Experiment(
        "fig5",
        "Fig. 5: the temperature of the correlation consistency",
        tuple(
            Row(f"tau = {tau}", (_V3, *_PRINTED, "loss.beta=0", f"loss.tau={tau}")) for tau in TAUS
        ),
        "tau = 4",
        tau=True,
        preset=ABDOMEN,
    ),
)
_ONE, _CONTROL = (1, 1), "Ours, one embedding set"
_NO_GAINS, _NO_SCALING = "Joint V3, no gains at test", ("model.scaling_at_test=false",)
_OURS = (
    Experiment(
        "draws",
        "All cases of the first modality and one of the second, paired draws",
        (
            Row("Joint V2", V2.overrides, shots=_ONE),
            Row("Joint V3", V3.overrides, shots=_ONE),
            Row("Ours", OURS.overrides, shots=_ONE, ours=True),
            Row(_CONTROL, (_V3, "model.shared_embeddings=true"), shots=_ONE, ours=True),
        ),
        "Joint V3",
        seeds=10,
        also=((OURS.name, V2.name), (OURS.name, _CONTROL)),
    ),
    Experiment(
        "three",
        "Three modalities in one network",
        (BACKBONE, BASELINE, V2, V3, OURS),
        "Joint V3",
        modalities=3,
        also=((OURS.name, BASELINE.name),),
    ),
    Experiment(
        "scaling",
        "With and without the modality's gains at test time, the same trained networks",
        (
            OURS,
            Row("Ours, no gains at test", (_V3,), at_test=_NO_SCALING, ours=True),
            V3,
            Row(_NO_GAINS, V3.overrides, at_test=_NO_SCALING),
        ),
        OURS.name,
        also=((_NO_GAINS, V3.name),),
    ),
    Experiment(
        "comparators",
        "Networks of others",
        (PAYER, UMMKD, *VALINDRIA, BASELINE, OURS),
        "Baseline",
    ),
)  # fmt: skip
EXPERIMENTS: dict[str, Experiment] = {one.name: one for one in (*_PAPER, *_OURS)}
