"""For method developers: the modules on a network of one's own, and off again."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from unpaired.backbones import Foreign, Level
from unpaired.errors import UsageError
from unpaired.models.fold import fold, gains_form
from unpaired.models.joint import VARIANTS, Joint
from unpaired.models.segmenter import Segmenter
from unpaired.models.semantics import Scaling, Semantics
from unpaired.nn.external_attention import Maps


def attach(
    network: nn.Module,
    scales: Mapping[str, Level],
    classes: int,
    modalities: Mapping[str, int],
    *,
    input_layers: Sequence[str],
    pads_input: bool = True,
    multiple: int | Sequence[int] = 1,
    encoder: str | Sequence[str] = (),
    branches: Sequence[str] = (),
    logits: int | str = 0,
    variant: str = "V2",
    private_norms: bool = False,
    heads: int = 8,
    predict: bool = True,
    correlate: bool = True,
    maps: Maps = "raw",
) -> Joint:
    """A stem and a chain of External Attention Modules per modality, around a network as it is.

    The stems begin as the identity where a modality has as many channels as the network reads.
    The network is taken, not copied: it trains in place, and `detach` gives it back.

    Args:
        network: takes an image [B K *space], gives logits [B Z *space].
        scales: module path -> width and stride of its output, coarse to fine.
        classes: number of classes Z, background included.
        modalities: name -> its number of input channels K_m.
        input_layers, pads_input, multiple, encoder, branches, logits: as of `Foreign`.
        variant: "V2" shares everything but the stems; "V1" needs `encoder`, "V3" `branches`.
        private_norms: every norm's scale, shift and statistics are a modality's own.
        heads: heads N of each module; divides the width of every scale.
        predict: build what the auxiliary loss needs (alpha > 0).
        correlate: build what the consistency of correlations needs (gamma > 0).
        maps: as of `ExternalAttention`.

    Raises:
        UsageError: the network does not have what is named, or the heads do not divide a width.
    """
    _check(variant, scales, heads, branches)
    backbone = Foreign(
        network,
        scales,
        classes=classes,
        input_layers=input_layers,
        pads_input=pads_input,
        multiple=multiple,
        encoder=encoder,
        branches=branches,
        logits=logits,
    )
    private = VARIANTS[variant].private_encoders
    segmenter = Segmenter(backbone, modalities, private, private_norms)
    widths = [level.channels for level in scales.values()]
    semantics = {m: Semantics(classes, widths, heads, predict, correlate, maps) for m in modalities}
    scaling = None
    if VARIANTS[variant].scaling:
        scaling = Scaling(classes, widths[0], segmenter.branches)
    return _placed(Joint(segmenter, semantics, scaling), next(network.parameters()))


def _check(variant: str, scales: Mapping[str, Level], heads: int, branches: Sequence[str]) -> None:
    if variant not in VARIANTS:
        raise UsageError(f"variant={variant!r} is unknown; known: {', '.join(VARIANTS)}")
    if bad := [level.channels for level in scales.values() if level.channels % heads]:
        raise UsageError(
            f"heads={heads} does not divide the widths {bad} of the scales; choose a number of "
            "heads that divides every one of them"
        )
    if VARIANTS[variant].scaling and not branches:
        raise UsageError(
            "V3 multiplies residual branches: name their last layers, branches=('path', ...)"
        )


def _placed(joint: Joint, like: Tensor) -> Joint:
    """What is ours on the network's device and in its type; the network itself stays as it is."""
    for part in (joint.segmenter.stems, joint.segmenter.norms, joint.semantics, joint.scaling):
        if part is not None:
            part.to(device=like.device, dtype=like.dtype)
    return joint


def detach(joint: Joint, modality: str | None = None) -> nn.Module:
    """The network that was attached, without stems, modules and anything else of ours.

    Args:
        joint: as `attach` returns it, or the training's network of a foreign backbone.
        modality: None gives the very object that was attached, trained in place: what it needs
            before it is the modality's stem (and in V3 its gains). A name gives a copy with
            that modality's stem and gains folded into its weights: an image of K_m channels in,
            that modality's logits out, nothing beside it.

    Raises:
        UsageError: the network is not foreign, the modality is unknown, or in V1 none is named.
    """
    segmenter = joint.segmenter
    if not isinstance(segmenter.backbone, Foreign):
        raise UsageError(
            f"detach gives back networks that attach took; this one is built around "
            f"{type(segmenter.backbone).__name__}: use unpaired.models.fold"
        )
    if modality is None:
        if segmenter.encoders or segmenter.norms:
            raise UsageError(
                "with private encoders (V1) or norms there is a network per modality: "
                f"name one of {segmenter.modalities}"
            )
        return segmenter.backbone.network
    if modality not in segmenter.modalities:
        raise UsageError(
            f"{modality!r} is not one of this network's modalities {segmenter.modalities}"
        )
    folded = fold(gains_form(joint), modality)
    assert isinstance(folded, Foreign)
    named = dict(segmenter.backbone.named_parameters())
    if modality in segmenter.norms:
        named |= segmenter.norms[modality].values_by_name()  # type: ignore[operator]
    frozen = {name for name, p in named.items() if not p.requires_grad}
    for name, parameter in folded.network.named_parameters():
        parameter.requires_grad_(f"network.{name}" not in frozen)  # it is a plain network again
    return folded.network
