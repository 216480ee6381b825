"""Archives that can be imported: one file each, one entry here."""

from unpaired.data.importing.found import Source
from unpaired.data.sources import (
    amos,
    bids,
    btcv,
    chaos,
    decathlon,
    manifest,
    mmwhs,
    nnunet_regions,
    totalsegmentator,
)

IMPORTS: dict[str, Source] = {
    "mmwhs": mmwhs.MMWHS,
    "btcv": btcv.BTCV,
    "chaos": chaos.SOURCE,
    "amos": amos.AMOS,
    "totalsegmentator": totalsegmentator.TOTALSEGMENTATOR,
    "decathlon": decathlon.SOURCE,
    "manifest": manifest.SOURCE,
    "nnunet": nnunet_regions.SOURCE,
    "bids": bids.SOURCE,
}
