"""The tables as data: every printed row has its row, and it builds what it says."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from toy import toy_config
from unpaired.backbones import BACKBONES
from unpaired.config import Config, load_config, to_toml
from unpaired.config.schema import LossConfig
from unpaired.data.plan import Clip, ModalityPlan, Plan
from unpaired.experiments import EXPERIMENTS, Experiment, published
from unpaired.experiments.record import network_of, settings_of
from unpaired.experiments.rows import AS_PRINTED, NETWORKS, OURS, PAYER, PHANTOM, PRINTED, Row
from unpaired.experiments.study import Request, Study, new_study
from unpaired.methods import method_of
from unpaired.models import Joint

TABLES = {e.table: e for e in EXPERIMENTS.values() if e.table}


def plan(*modalities: str) -> Plan:
    part = ModalityPlan(channel_names=("x",), clip=(Clip(kind="percentile", low=0.0, high=100.0),))
    return Plan(
        classes=("background", "ball", "box"), modalities=dict.fromkeys(modalities, part),
        spacing_mm=(3.0, 1.0, 1.0), slice_axis="S", patch=(32, 32), context=1,
    )  # fmt: skip


def config_of(row: Row, tmp_path: Path) -> Config:
    file = tmp_path / "toy.toml"
    file.write_text(to_toml(toy_config()))
    return Study({}, tmp_path, None, file).recipe(*row.overrides)


def joint_of(row: Row, tmp_path: Path) -> Joint:
    names = ("a", "b") if row.who == "all" else ("a",)
    config = config_of(row, tmp_path)
    return method_of(config).joint(config, plan(*names))


def test_every_printed_row_has_its_row_and_the_other_way_round() -> None:
    assert set(TABLES) == {c.table for c in published()} == {"1", "2", "4", "5", "6", "7"}
    for table, experiment in TABLES.items():
        printed = {c.row for c in published() if c.table == table}
        names = [row.printed_as or row.name for row in experiment.rows if row is not OURS]
        assert printed == set(names) and len(printed) == len(names)
        assert experiment.reference in printed
        assert {AS_PRINTED, OURS} <= set(experiment.rows)


def test_the_published_cells_are_those_of_the_design(shared: Callable[[str], Path]) -> None:
    with shared("design/tables.csv").open() as file:
        wanted = list(csv.DictReader(file))
    found = published()
    assert len(found) == len(wanted) > 800
    for line, cell in zip(wanted, found, strict=True):
        assert line["row_as_printed"] == cell.printed_row and line["row"] == cell.row
        keys = (cell.table, cell.metric, cell.modality, cell.cls, cell.difference)
        names = ("table", "metric", "modality", "class", "printed_difference")
        assert keys == tuple(line[name] for name in names)
        assert float(line["mean"]) == cell.mean
        assert (float(line["std"]) if line["std"] else None) == cell.std


def test_printed_means_follow_from_their_row_but_for_the_errata() -> None:
    """Rounded cells: a mean of four may be off by half a unit of the last place, and a bit."""
    found = {(c.table, c.metric, c.row, c.modality, c.cls): c for c in published()}
    marked = set()
    for key, mean in found.items():
        own = [c.mean for k, c in found.items() if k[:4] == key[:4] and k[4] != "Mean"]
        if key[4] != "Mean" or not own:
            continue
        unit = 0.1 if key[1] == "dice_percent" else 0.01
        if abs(sum(own) / len(own) - mean.mean) > unit:
            marked.add(key)
        assert bool(mean.erratum) == (abs(sum(own) / len(own) - mean.mean) > unit), key
    assert {(t, r, m) for t, _, r, m, _ in marked} == {
        *((t, "Baseline", "MR") for t in "145"), ("2", "Backbone", "CT"), ("6", "Backbone", "CT")
    }  # fmt: skip
    assert found["4", "asd_mm", "Three annotated MRI", "all", "Mean"].erratum.endswith("-0.10")


@pytest.mark.parametrize("name", ["table5", "table7"])
def test_rows_build_the_parts_they_name(name: str, tmp_path: Path) -> None:
    for row in EXPERIMENTS[name].rows:
        joint, loss = joint_of(row, tmp_path), config_of(row, tmp_path).loss
        text = row.name
        assert bool(joint.segmenter.encoders) == ("V1" in text)
        assert (joint.scaling is not None) == ("V3" in text or "Ours" in text)
        assert bool(joint.semantics) == (text != "Backbone")
        assert len(joint.segmenter.modalities) == (1 if row.who == "alone" else 2)
        consistent = "CR" in text or "L_" in text or "Ours" in text
        wanted = (0.1, 0.1) if consistent else (0.0, 0.0)
        if text.endswith("L_mcr"):
            wanted = (0.1, 0.0)
        if text.endswith("L_icr"):
            wanted = (0.0, 0.1)
        assert (loss.beta, loss.gamma) == wanted, text
        images = {m: torch.zeros(1, 1, 32, 32) for m in joint.segmenter.modalities}
        outputs = joint(images)
        several = row.who == "all"
        assert any(o.correlations for o in outputs.values()) == (loss.gamma > 0 and several)
        assert any(o.auxiliary for o in outputs.values()) == (text != "Backbone")


def test_terms_of_the_objective(tmp_path: Path) -> None:
    """What each row of Tables 5 and 7 minimises, by name."""
    rows = {r.name: r for t in ("table5", "table7") for r in EXPERIMENTS[t].rows}
    for name, row in rows.items():
        joint = joint_of(row, tmp_path)
        modalities = joint.segmenter.modalities
        images = {m: torch.randn(1, 1, 32, 32) for m in modalities}
        labels = {m: torch.randint(3, (1, 32, 32)) for m in modalities}
        config = config_of(row, tmp_path)
        objective = method_of(config).objective(config, plan(*modalities))
        found = set(objective(joint(images), labels).weighted)
        wanted = {f"seg/{m}" for m in modalities}
        if name != "Backbone":
            wanted |= {f"aux/{m}" for m in modalities}
        if "CR" in name or "Ours" in name or "L_mcr" in name:
            wanted.add("mcr")
        if "CR" in name or "Ours" in name or "L_icr" in name:
            wanted.add("icr")
        assert found == wanted, name


def test_the_temperature_of_fig_5_is_of_the_icr_alone(tmp_path: Path) -> None:
    experiment = EXPERIMENTS["fig5"]
    losses = [config_of(row, tmp_path).loss for row in experiment.rows]
    assert [loss.tau for loss in losses] == sorted({loss.tau for loss in losses})
    assert all(loss.beta == 0 and loss.gamma > 0 for loss in losses)
    other = config_of(EXPERIMENTS["table7"].row("Joint V3 + L_icr"), tmp_path).loss
    reference = config_of(experiment.row("tau = 4"), tmp_path).loss
    assert reference == other and (other.tau, other.mask_absent) == (4.0, False)


def test_the_presets_of_the_paper_have_its_temperature_and_count_every_class() -> None:
    """Ours are others (docs/decisions.md)."""
    for name in ("paper-cardiac-2d", "abdomen-2d", "paper-abdomen-3d"):
        settings = settings_of(load_config(name, None, []))
        assert {key: settings[key] for key in PRINTED} == PRINTED
    assert (LossConfig().tau, LossConfig().mask_absent) == (32.0, True)


def on_papers_data(experiment: Experiment, *overrides: str) -> Study:
    """Its study on folders that are said to be the paper's."""
    data = {"ct": Path("ct"), "mr": Path("mr")}
    return new_study(experiment, Request(data, Path("out"), overrides=overrides, paper=True))


HEART_TABLES, ABDOMEN_TABLES = (
    ("table1", "table4", "table5"),
    ("table2", "table6", "table7", "fig5"),
)


@pytest.mark.parametrize("name", [*HEART_TABLES, *ABDOMEN_TABLES])
def test_network_and_grid_of_every_table_are_the_papers(name: str) -> None:
    """MM-WHS: Swin-Unet, tokens of 4 x 4, three coronal slices, 1 mm. BTCV and CHAOS: nnFormer,
    tokens of 4 x 4 x 2, 1.5 x 1.5 x 8 mm, five draws of 9 MR. Both: 256 x 256, two blocks a stage,
    70/10/20."""
    experiment = EXPERIMENTS[name]
    study = on_papers_data(experiment)
    heart = name in HEART_TABLES
    backbone, patch = ("swin_unet", (4, 4)) if heart else ("nnformer", (2, 4, 4))
    for row in experiment.rows:
        config = study.recipe(*row.overrides, row=row)
        data = config.data
        if row is PAYER:  # isotropic, in 3D, by a recipe of its own
            assert (config.model.name, data.dims) == ("payer", 3)
            continue
        assert (data.spacing_mm, data.slice_axis) == (
            ((1.0, 1.0, 1.0), "P") if heart else ((8.0, 1.5, 1.5), "S")
        )
        assert (data.plane, data.split) == ((256, 256), (0.7, 0.1, 0.2))
        assert data.dims == (2 if heart else 3)
        assert data.context == 3 or not heart
        assert data.cases == ({} if heart else {"mr": 9})
        if config.model.name == "consistency":
            kind = BACKBONES[config.model.backbone]
            options = kind.Options(**config.model.options)
            assert (kind, tuple(options.depths)) == (BACKBONES[backbone], (2, 2, 2, 2))
            size = (256, 256) if heart else (16, 128, 128)
            if row is OURS:  # the finest map is of tokens, however narrow
                narrow = {**config.model.options, "embed_dim": 8, "heads": [1, 1, 2, 4]}
                assert kind(size, 3 if heart else 1, 5, **narrow).levels[-1].stride == patch
        else:
            assert row.name == "UMMKD"
    assert (experiment.seeds, study.redraw) == (5, True)
    assert network_of(settings_of(study.recipe())) == experiment.network


def test_rows_with_consistency_have_the_papers_but_for_ours() -> None:
    """On the paper's data and on the phantom, whose recipe has this project's."""
    ours = {key: settings_of(Config())[key] for key in PRINTED}
    assert ours != PRINTED
    for name in (*HEART_TABLES, *ABDOMEN_TABLES):
        experiment = EXPERIMENTS[name]
        for study in (on_papers_data(experiment), Study({}, Path(), experiment.phantom)):
            for row in experiment.rows:
                settings = settings_of(study.recipe(*row.overrides, row=row))
                if row.who == "alone" or not settings["loss.gamma"] or row.name == "UMMKD":
                    continue
                wanted = {**PRINTED, "loss.tau": float(row.name[6:])} if name == "fig5" else PRINTED
                assert {k: settings[k] for k in PRINTED} == (ours if row is OURS else wanted)
    mine = on_papers_data(EXPERIMENTS["table5"], "loss.tau=16")  # the user's word holds for ours
    assert mine.recipe(*OURS.overrides, row=OURS).loss.tau == 16
    assert mine.recipe(*AS_PRINTED.overrides, row=AS_PRINTED).loss.tau == 4


def test_every_table_has_a_narrow_form_of_its_network_on_the_phantom() -> None:
    assert set(PHANTOM) == set(NETWORKS)
    for preset, small in PHANTOM.items():
        wide, narrow = (settings_of(load_config(name, None, [])) for name in (preset, small))
        assert network_of(narrow) == network_of(wide) == NETWORKS[preset]
        assert load_config(small, None, []).model.options["embed_dim"] < 96
    assert EXPERIMENTS["table6"].phantom == "phantom-benchmark-3d"
    assert EXPERIMENTS["draws"].phantom == "phantom-benchmark"


def test_other_data_without_a_recipe_get_the_tables_network(tmp_path: Path) -> None:
    data = {"t1": Path("a"), "t2": Path("b")}
    for name, experiment in EXPERIMENTS.items():
        if experiment.network is None:
            continue
        study = new_study(experiment, Request(data, tmp_path))
        assert network_of(settings_of(study.recipe())) == experiment.network, name
        mine = ("model.backbone=resenc_unet", "data.dims=2")
        study = new_study(experiment, Request(data, tmp_path, overrides=mine))
        assert network_of(settings_of(study.recipe())) == ("resenc_unet", 2)
        study = new_study(experiment, Request(data, tmp_path, preset="default"))
        assert network_of(settings_of(study.recipe())) == ("resenc_unet", 2)


def test_the_control_shares_one_set_of_embeddings(tmp_path: Path) -> None:
    control = EXPERIMENTS["draws"].row("Ours, one embedding set")
    shared, own = joint_of(control, tmp_path), joint_of(OURS, tmp_path)
    assert shared.semantics["a"].embeddings is shared.semantics["b"].embeddings
    assert own.semantics["a"].embeddings is not own.semantics["b"].embeddings
    assert {r.shots for r in EXPERIMENTS["draws"].rows} == {(1, 1)}
    assert EXPERIMENTS["draws"].seeds >= 10


def test_table_4_takes_few_cases_of_one_modality() -> None:
    shots = {row.name: row.shots for row in EXPERIMENTS["table4"].rows}
    assert shots == {
        "Baseline": None, "Ours, as printed": None, "Ours": None,
        "One annotated MRI": (1, 1), "Three annotated MRI": (1, 3),
        "One annotated CT": (0, 1), "Three annotated CT": (0, 3),
    }  # fmt: skip


def test_a_network_of_volumes_has_a_recipe_of_its_own() -> None:
    grid = ('data.classes=["spleen", "liver"]', "data.patch=[128, 128]", "data.slice_axis=S")
    study = Study({}, Path(), "phantom-benchmark", None, ("train.steps=7",), grid=grid)
    own = study.recipe(*PAYER.overrides, row=PAYER)
    assert (own.model.name, own.data.dims, own.train.steps) == ("payer", 3, 7)
    assert own.data.classes == ("spleen", "liver") and own.data.spacing_mm == (6.0, 4.5, 4.5)
    common = study.recipe(*OURS.overrides, row=OURS)
    assert common.data.patch == (128, 128) and common.train.batch_size == 4
