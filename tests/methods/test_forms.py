"""The forms of the consistency as terms: what they weigh, build, move and refuse, on every kind of
network."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unpaired.config import Config, load_config
from unpaired.data.plan import Clip, ModalityPlan, Plan
from unpaired.data.styles import seen_as
from unpaired.errors import UsageError
from unpaired.losses import Terms
from unpaired.losses.pairs import guided_icr, view_correlations, view_logits
from unpaired.losses.prototypes import contrast_means, contrast_pixels, tie
from unpaired.losses.segmentation import SegmentationLoss, present
from unpaired.methods import METHODS, Consistency
from unpaired.methods.forms import with_rich
from unpaired.methods.ummkd import distillation
from unpaired.models import Joint, Output, View

NETWORKS = {
    "resenc_unet": ("base_width=8", "stages=3", "blocks=[1,1,1]"),
    "swin_unet": ("embed_dim=8", "depths=[1,1,2]", "heads=[1,2,2]", "drop_path=0.0"),
    "nnformer": (
        "embed_dim=8", "depths=[2,2,2]", "heads=[1,2,2]", "patch=[1,4,4]", "window=4",
        "drop_path=0.0",
    ),
}  # fmt: skip
FORMS = {
    "guided": ("model.modules=shared", "model.maps=mean", "loss.tau=4", "loss.beta=0"),
    "views": ("augment.second_view=gin", "model.maps=mean"),
    "prototypes": (),
    "distill": (),
}


def made(form: str, *more: str, network: str = "swin_unet") -> Config:
    options = [f"model.options.{text}" for text in NETWORKS[network]]
    three = ("data.dims=3", "data.context=1") if network == "nnformer" else ()
    given = (f"model.backbone={network}", *options, "model.heads=2", f"loss.consistency={form}")
    return load_config(None, None, [*given, *three, *FORMS.get(form, ()), *more])


def plan(config: Config, *modalities: str, channels: int = 1) -> Plan:
    clip = Clip(kind="percentile", low=0.5, high=99.5)
    names = tuple(f"c{k}" for k in range(channels))
    part = ModalityPlan(channel_names=names, clip=(clip,) * channels)
    return Plan(
        classes=("background", "liver", "spleen"),
        modalities=dict.fromkeys(modalities or ("a", "b"), part),
        spacing_mm=(3.0, 2.0, 2.0),
        slice_axis="S",
        patch=(32, 32) if config.data.dims == 2 else (8, 32, 32),
        context=3 if config.data.dims == 2 else 1,
    )


Step = tuple[Joint, Terms, dict[str, Output], dict[str, Tensor]]


def step(config: Config, chosen: Plan | None = None, filled: bool = True) -> Step:
    """Forward and objective on noise; the bank knows a step before it."""
    chosen = chosen or plan(config)
    method = METHODS[config.model.name]
    torch.manual_seed(0)
    joint = method.joint(config, chosen)
    images = {m: torch.randn(2, chosen.context, *chosen.patch) for m in chosen.modalities}
    labels = {m: torch.randint(3, (2, *chosen.patch)) for m in images}
    labels["a"][:, ..., :16] = 0
    others, views = seen_as(list(images), 0), None
    if config.augment.second_view != "none":
        views = {m: View(others[m], image.flip(-1)) for m, image in images.items()}
    if filled:
        joint.remember(joint(images, views), labels, lambda x: x)
    outputs = joint(images, views)
    terms = method.objective(config, chosen)(outputs, labels)
    return joint, terms, outputs, labels


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_form_trains_every_network_and_nothing_unused_is_built(
    form: str, network: str
) -> None:
    for variant in ("V2", "V3"):
        joint, terms, _, _ = step(made(form, f"model.variant={variant}", network=network))
        assert terms.total.isfinite()
        terms.total.backward()
        trained = [(n, p) for n, p in joint.named_parameters() if p.requires_grad]
        assert [n for n, p in trained if p.grad is None] == []


def test_terms_and_their_weights() -> None:
    joint, terms, outputs, labels = step(made("guided", "loss.gamma=0.3", "loss.rich=b"))
    held = {m: present(labels[m], 3) for m in outputs}
    scales = [{m: o.correlations[k] for m, o in outputs.items()} for k in range(2)]
    value = sum(guided_icr(e, held, 4.0, "b") for e in scales)
    torch.testing.assert_close(terms.terms["icr"], value)
    torch.testing.assert_close(terms.weighted["icr"], 0.3 * value)
    assert terms.eased == ("icr",) and "mcr" not in terms.terms

    _, terms, outputs, labels = step(made("views", "loss.view_weight=0.25"))
    assert terms.eased == ("view/correlations", "view/logits")
    pairs = [(o, o.view, labels[m]) for m, o in outputs.items()]
    e = [
        view_correlations(o.correlations, v.correlations, present(y, 3), 32.0) for o, v, y in pairs
    ]
    logits = [view_logits(o.auxiliary, v.auxiliary) for o, v, _ in pairs]
    torch.testing.assert_close(terms.terms["view/correlations"], sum(e) / 2)
    torch.testing.assert_close(terms.terms["view/logits"], sum(logits) / 2)
    again = SegmentationLoss()(outputs["b"].view.logits, labels["b"])
    torch.testing.assert_close(terms.weighted["seg_view/b"], 0.25 * again)

    joint, terms, outputs, labels = step(made("prototypes", "loss.rich=a", "loss.beta=0.2"))
    given = outputs["b"].features, labels["b"], joint.bank.means("a")
    torch.testing.assert_close(terms.terms["prototypes/means"], contrast_means(*given))
    torch.testing.assert_close(terms.terms["prototypes/positions"], contrast_pixels(*given))
    o = outputs["a"]
    torch.testing.assert_close(
        terms.weighted["tie/a"], 0.2 * tie(o.embeddings, o.features[0], labels["a"])
    )
    _, both, outputs, _ = step(made("prototypes"))
    assert both.terms["prototypes/means"] != terms.terms["prototypes/means"], "either way"

    _, terms, outputs, labels = step(made("distill", "loss.distill=0.7"))
    kd = distillation({m: o.logits for m, o in outputs.items()}, labels, 2.0)
    torch.testing.assert_close(terms.weighted["kd"], 0.7 * kd)
    assert terms.eased == ()


def moved(value: Tensor, joint: Joint, part: str) -> bool:
    names, parameters = zip(*joint.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    return any(
        g is not None and bool(g.any()) for n, g in zip(names, found, strict=True)
        if n.startswith(part)
    )  # fmt: skip


def test_the_rich_modality_is_not_moved_and_a_second_view_moves_the_others_path() -> None:
    """Of what is a modality's own: the stem."""
    joint, terms, _, _ = step(made("guided", "loss.rich=b"))
    assert moved(terms.terms["icr"], joint, "segmenter.stems.a")
    assert not moved(terms.terms["icr"], joint, "segmenter.stems.b")
    joint, terms, _, _ = step(made("prototypes", "loss.rich=b"))
    assert moved(terms.terms["prototypes/means"], joint, "segmenter.stems.a")
    assert not moved(terms.terms["prototypes/positions"], joint, "segmenter.stems.b")
    assert moved(terms.terms["tie/b"], joint, "segmenter.stems.b")
    assert moved(terms.terms["tie/b"], joint, "semantics.b.embeddings")
    joint, terms, _, _ = step(made("views"))
    assert moved(terms.terms["seg_view/a"], joint, "segmenter.stems.b")
    assert not moved(terms.terms["seg_view/a"], joint, "segmenter.stems.a")


def test_without_an_auxiliary_loss_views_compare_the_logits_and_build_no_module() -> None:
    joint, terms, outputs, _ = step(
        made("views", "loss.alpha=0", "loss.beta=0", "model.variant=V2")
    )
    assert not joint.semantics and terms.eased == ("view/logits",)
    pairs = [view_logits((o.logits,), (o.view.logits,)) for o in outputs.values()]
    torch.testing.assert_close(terms.terms["view/logits"], sum(pairs) / 2)


def test_the_control_is_the_same_views_without_the_loss() -> None:
    for more in (("loss.gamma=0",), ("loss.consistency=paper", "loss.beta=0", "loss.gamma=0")):
        _, terms, _, _ = step(made("views", *more))
        assert terms.eased == ()
        assert {n for n in terms.terms if n.startswith("seg")} == {
            "seg/a", "seg/b", "seg_view/a", "seg_view/b",
        }  # fmt: skip


def test_a_single_modality_has_nothing_to_compare_but_its_own_second_views() -> None:
    for form in FORMS:
        config = made(form)
        joint, terms, _, _ = step(config, plan(config, "a"))
        own = {"seg/a", "aux/a"}
        if form == "views":
            own |= {"seg_view/a", "view/correlations", "view/logits"}
        assert set(terms.terms) == own
        terms.total.backward()
        assert all(p.grad is not None for p in joint.parameters())
        said = Consistency().remarks(config, ["a"])
        assert bool(said) == (form != "views")
        assert not said or "is the only one" in said[0]
        assert Consistency().remarks(config, ["a", "b"]) == []
    assert Consistency().remarks(made("paper"), ["a"]) == []


def test_an_empty_bank_and_a_batch_without_classes_leave_the_other_terms() -> None:
    config = made("prototypes")
    _, terms, outputs, labels = step(config, filled=False)
    assert terms.terms["prototypes/means"] == terms.terms["prototypes/positions"] == 0
    assert terms.total.isfinite() and terms.total.requires_grad
    for form in FORMS:
        config = made(form)
        _, _, outputs, labels = step(config)
        nobody = {m: torch.full_like(y, -100) for m, y in labels.items()}
        found = Consistency().objective(config, plan(config))(outputs, nobody)
        assert found.total.isfinite()
        names = {"icr", "kd", "prototypes/means", "prototypes/positions", "view/correlations"}
        assert all(found.terms[n] == 0 for n in names & found.terms.keys())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ("loss.consistency=views",),
            r"second_view=none makes none\. Set augment\.second_view=gin",
        ),
        (("augment.second_view=gin", "loss.view_weight=0"), "second views that no loss reads"),
        (("loss.consistency=guided", "loss.rich=c"), r"loss\.rich=c is no modality .* a, b"),
        (("loss.consistency=guided",), r"Set model\.modules=shared"),
        (
            ("loss.consistency=guided", "model.modules=shared", "loss.alpha=0"),
            "only the auxiliary loss trains",
        ),
        (("model.name=ummkd", "augment.second_view=gin"), "which model.name=ummkd does not read"),
    ],
)
def test_what_contradicts_itself_is_said(more: tuple[str, ...], words: str) -> None:
    config = load_config(None, None, list(more))
    with pytest.raises(UsageError, match=words):
        METHODS[config.model.name].objective(config, plan(made("paper")))


def test_views_need_equally_many_channels() -> None:
    config = made("views")
    two = plan(config, "a", channels=2).modalities["a"]
    chosen = plan(config)
    chosen = chosen.model_copy(update={"modalities": {**chosen.modalities, "b": two}})
    with pytest.raises(UsageError, match=r"as many channels; there are a 1, b 2"):
        Consistency().objective(config, chosen)


def test_the_rich_modality_is_the_one_of_most_cases() -> None:
    config = made("guided")
    assert with_rich(config, {"a": 3, "b": 8}).loss.rich == "b"
    assert with_rich(config, {"a": 8, "b": 8}).loss.rich is None
    assert with_rich(made("guided", "loss.rich=a"), {"a": 3, "b": 8}).loss.rich == "a"


def test_the_papers_form_is_the_default_and_has_no_trace_of_the_others() -> None:
    plain, _, outputs, _ = step(made("paper"))
    assert plain.bank is None and not any("bank" in n for n in plain.state_dict())
    assert all(o.view is None and not o.features for o in outputs.values())
    assert load_config(None, None, []).loss.consistency == "paper"
    assert replace(Consistency()).sees_views and not METHODS["ummkd"].sees_views
