"""The kept segmenter, the dropped semantics, and how they train together."""

from unpaired.models.attach import attach, detach
from unpaired.models.bank import PrototypeBank
from unpaired.models.fold import fold, gains_form
from unpaired.models.joint import VARIANTS, Joint, Output, Variant, View
from unpaired.models.norms import PrivateNorms
from unpaired.models.segmenter import Segmenter
from unpaired.models.semantics import Scaling, Semantics, share_embeddings, share_modules

__all__ = [
    "VARIANTS",
    "Joint",
    "Output",
    "PrivateNorms",
    "PrototypeBank",
    "Scaling",
    "Segmenter",
    "Semantics",
    "Variant",
    "View",
    "attach",
    "detach",
    "fold",
    "gains_form",
    "share_embeddings",
    "share_modules",
]
