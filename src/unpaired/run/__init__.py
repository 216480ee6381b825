"""What a run is on disk: its folder, data, log and scores."""

from unpaired.run.environment import describe_environment
from unpaired.run.folder import RunFolder

__all__ = ["RunFolder", "describe_environment"]
