"""What a segment is, in codes that other programs know: SNOMED CT, as DICOM writes them."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unpaired.errors import DataError, UsageError
from unpaired.files import printable, read_json
from unpaired.names import canonical_name


class Code(NamedTuple):
    """A concept: its value in a coding scheme ("SCT" is SNOMED CT), and its meaning in words."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class SegmentCode:
    """Segmented property: category, type, and what narrows the type (left, right)."""

    category: Code
    type: Code
    modifier: Code | None = None


def _sct(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


STRUCTURE = _sct("91723000", "Anatomical Structure")
TISSUE = _sct("85756007", "Tissue")
ABNORMAL = _sct("49755003", "Morphologically Abnormal Structure")
UNKNOWN = SegmentCode(TISSUE, TISSUE)
"""What a name without a code gets; its own name stays in the segment's label."""
_SIDES = {"left": _sct("7771000", "Left"), "right": _sct("24028007", "Right")}
_STRUCTURES = {
    "adrenal gland": _sct("23451007", "Adrenal gland"),
    "aorta": _sct("15825003", "Aorta"),
    "ascending aorta": _sct("54247002", "Ascending aorta"),
    "bone": _sct("272673000", "Bone"),
    "brain": _sct("12738006", "Brain"),
    "colon": _sct("71854001", "Colon"),
    "duodenum": _sct("38848004", "Duodenum"),
    "esophagus": _sct("32849002", "Esophagus"),
    "femur": _sct("71341001", "Femur"),
    "gallbladder": _sct("28231008", "Gallbladder"),
    "heart": _sct("80891009", "Heart"),
    "inferior vena cava": _sct("64131007", "Inferior vena cava"),
    "kidney": _sct("64033007", "Kidney"),
    "left atrium": _sct("82471001", "Left atrium"),
    "left ventricle": _sct("87878005", "Left ventricle"),
    "liver": _sct("10200004", "Liver"),
    "lung": _sct("39607008", "Lung"),
    "muscle": _sct("71616004", "Muscle"),
    "myocardium": _sct("74281007", "Myocardium"),
    "pancreas": _sct("15776009", "Pancreas"),
    "portal vein": _sct("32764006", "Portal vein"),
    "prostate": _sct("41216001", "Prostate"),
    "pulmonary artery": _sct("81040000", "Pulmonary artery"),
    "rib": _sct("113197003", "Rib"),
    "right atrium": _sct("73829009", "Right atrium"),
    "right ventricle": _sct("53085002", "Right ventricle"),
    "small intestine": _sct("30315005", "Small intestine"),
    "spinal cord": _sct("2748008", "Spinal cord"),
    "spine": _sct("421060004", "Spine"),
    "spleen": _sct("78961009", "Spleen"),
    "splenic vein": _sct("35819009", "Splenic vein"),
    "stomach": _sct("69695003", "Stomach"),
    "thyroid": _sct("69748006", "Thyroid"),
    "trachea": _sct("44567001", "Trachea"),
    "urinary bladder": _sct("89837001", "Bladder"),
    "uterus": _sct("35039007", "Uterus"),
    "vertebra": _sct("51282000", "Vertebra"),
}
_ABNORMAL = {
    "lesion": _sct("52988006", "Lesion"),
    "neoplasm": _sct("108369006", "Neoplasm"),
    "sarcoma": _sct("1187396000", "Sarcoma"),
}
_ALIASES = {
    "bladder": "urinary bladder",
    "gall bladder": "gallbladder",
    "ivc": "inferior vena cava",
    "oesophagus": "esophagus",
    "postcava": "inferior vena cava",
    "small bowel": "small intestine",
    "thyroid gland": "thyroid",
    "tumor": "neoplasm",
    "tumour": "neoplasm",
}
CODES: Mapping[str, SegmentCode] = {
    **{name: SegmentCode(STRUCTURE, code) for name, code in _STRUCTURES.items()},
    **{name: SegmentCode(ABNORMAL, code) for name, code in _ABNORMAL.items()},
}


def code_of(name: str, own: Mapping[str, SegmentCode] | None = None) -> SegmentCode:
    """The code of a class name: one's own, the table's, the table's with a side, or `UNKNOWN`."""
    plain = canonical_name(name)
    if own and plain in own:
        return own[plain]
    known = CODES.get(_ALIASES.get(plain, plain))
    if known is not None:
        return known
    words = plain.split()
    for side in (words[:1], words[-1:]):
        rest = " ".join(word for word in words if [word] != side)
        base = CODES.get(_ALIASES.get(rest, rest))
        if side and side[0] in _SIDES and base is not None:
            return SegmentCode(base.category, base.type, _SIDES[side[0]])
    return UNKNOWN


def read_codes(path: Path) -> dict[str, SegmentCode]:
    """One's own codes from a TOML or JSON table: class name -> `type`, and where they are not an
    anatomical structure `category`, and `modifier`; each [value, scheme, meaning].

    Raises:
        UsageError: not such a table. DataError: the file cannot be read.
    """
    table = read_json(path) if path.suffix == ".json" else _toml(path)
    if not isinstance(table, dict):
        raise UsageError(f"{printable(path)}: write a table, class name -> codes.")
    return {canonical_name(name): _entry(path, name, entry) for name, entry in table.items()}


def _toml(path: Path) -> Any:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {printable(path)}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UsageError(f"{printable(path)} is not valid TOML: {error}.") from error


def _entry(path: Path, name: str, entry: Any) -> SegmentCode:
    known = {"category", "type", "modifier"}
    if not isinstance(entry, dict) or "type" not in entry or set(entry) - known:
        raise UsageError(
            f"{printable(path)}: {printable(name)} needs `type`, and may have `category` and "
            "`modifier`, "
            'each ["value", "scheme", "meaning"].'
        )
    codes = {key: _code(path, name, value) for key, value in entry.items()}
    return SegmentCode(codes.get("category", STRUCTURE), codes["type"], codes.get("modifier"))


def _code(path: Path, name: str, value: Any) -> Code:
    fits = isinstance(value, list) and len(value) == 3
    if not fits or not all(isinstance(part, str) and 0 < len(part) <= 64 for part in value):
        raise UsageError(
            f"{printable(path)}: a code of {printable(name)} is not three texts of 1 to 64 "
            "characters, "
            'such as ["10200004", "SCT", "Liver"].'
        )
    if len(value[0]) > 16 or len(value[1]) > 16:
        raise UsageError(
            f"{printable(path)}: value and scheme of {printable(name)} may have 16 characters."
        )
    return Code(*value)
