"""Methods by `model.name`: the paper's, and the comparators (docs/comparators.md)."""

from unpaired.config import Config
from unpaired.errors import UsageError
from unpaired.methods.base import Criterion, Method, Stream, entry, input_channels
from unpaired.methods.consistency import Consistency
from unpaired.methods.dual_stream import Valindria
from unpaired.methods.payer import Payer
from unpaired.methods.ummkd import Ummkd

METHODS: dict[str, Method] = {
    method.name: method for method in (Consistency(), Ummkd(), Valindria(), Payer())
}

__all__ = [
    "METHODS",
    "Consistency",
    "Criterion",
    "Method",
    "Payer",
    "Stream",
    "Ummkd",
    "Valindria",
    "input_channels",
    "method_of",
]


def method_of(config: Config, given: Method | None = None) -> Method:
    """The method that `model.name` names: the given one, or else the registered one.

    Raises:
        UsageError: there is none, or the given one has another name.
    """
    if given is None:
        return entry(METHODS, config.model.name, "model.name")
    if given.name != config.model.name:
        raise UsageError(
            f"the method given is {given.name}, but model.name={config.model.name}. Set "
            f"model.name={given.name}, or give no method."
        )
    return given
