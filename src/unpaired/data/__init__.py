"""From data sets to batches: the plan, the prepared cases, sampling and augmentation."""
