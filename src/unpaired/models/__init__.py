"""The kept segmenter, the dropped semantics, and how they train together."""

from unpaired.models.attach import attach, detach
from unpaired.models.dual_stream import DualStream
from unpaired.models.fold import fold, gains_form
from unpaired.models.joint import VARIANTS, Joint, Output, Variant
from unpaired.models.locating import LocatingJoint, LocatingSegmenter, whole
from unpaired.models.payer import LocateThenSegment
from unpaired.models.segmenter import Segmenter
from unpaired.models.semantics import Scaling, Semantics, share_embeddings
from unpaired.models.ummkd import UmmkdNet

__all__ = [
    "VARIANTS",
    "DualStream",
    "Joint",
    "LocateThenSegment",
    "LocatingJoint",
    "LocatingSegmenter",
    "Output",
    "Scaling",
    "Segmenter",
    "Semantics",
    "UmmkdNet",
    "Variant",
    "attach",
    "detach",
    "fold",
    "gains_form",
    "share_embeddings",
    "whole",
]
