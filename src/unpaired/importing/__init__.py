"""Official archives -> the nnU-Net raw layout, with a record of where every file came from.

`run.import_source` is the entry; sources are registered in `unpaired.datasets.sources`.
"""
