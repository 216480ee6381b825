"""Any encoder-decoder as a backbone: name the modules whose outputs are the decoder's scales."""

from unpaired.backbones.foreign.network import Foreign
from unpaired.backbones.foreign.outputs import Scale

__all__ = ["Foreign", "Scale"]
