"""What a run is on disk: its folder, data, log and scores."""

from unpaired.run.folder import RunFolder, describe_environment

__all__ = ["RunFolder", "describe_environment"]
