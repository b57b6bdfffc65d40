"""What each field of the release may be, and when it is known.

Limits are not what is usual but what can be: of physics (a pressure is not negative), of the scale (GCS is 3 to 15), or
well beyond the most extreme values that were reported of adults who lived to be measured. Values beyond them are slips
of the pen or of another unit; the release has a few hundred, among them a pH of several hundred and temperatures that
are the freezing point in the other scale.
"""

from typing import NamedTuple

MISSING = -1  # as a value, and as a length of stay


class Range(NamedTuple):
    low: float
    high: float
    unit: str = ""
    whole: bool = False  # only integers


# Rows at 00:00, one of each in a record: known at admission. What lies outside makes it another file than it should be,
# and is refused. Gender may be missing.
DESCRIPTORS = {
    "RecordID": Range(1, 999_999_999, whole=True),
    "Age": Range(0, 120, "years", whole=True),
    "Gender": Range(0, 1, whole=True),
    "ICUType": Range(1, 4, whole=True),
}
# Known at the time of their row, for the release tells no other: height, and the first weight at 00:00, at admission.
# What lies outside is left out and counted by parameter, since the release itself has such rows.
MEASURED = {
    "ALP": Range(0, 20_000, "IU/L"),
    "ALT": Range(0, 50_000, "IU/L"),
    "AST": Range(0, 100_000, "IU/L"),
    "Albumin": Range(0, 10, "g/dL"),
    "BUN": Range(0, 500, "mg/dL"),
    "Bilirubin": Range(0, 150, "mg/dL"),
    "Cholesterol": Range(0, 3_000, "mg/dL"),
    "Creatinine": Range(0, 100, "mg/dL"),
    "DiasABP": Range(0, 500, "mmHg"),  # 0 stands for no pulse, or for a line that was flushed: it cannot be told
    "FiO2": Range(0.2, 1),
    "GCS": Range(3, 15),
    "Glucose": Range(0, 3_000, "mg/dL"),
    "HCO3": Range(0, 100, "mmol/L"),
    "HCT": Range(0, 90, "%"),
    "HR": Range(0, 400, "/min"),
    "Height": Range(50, 280, "cm"),
    "K": Range(0, 30, "mmol/L"),  # the upper end is of broken cells, not of blood
    "Lactate": Range(0, 60, "mmol/L"),
    "MAP": Range(0, 500, "mmHg"),
    "MechVent": Range(0, 1),
    "Mg": Range(0, 40, "mmol/L"),  # so the release says; its numbers are those of mg/dL
    "NIDiasABP": Range(0, 500, "mmHg"),
    "NIMAP": Range(0, 500, "mmHg"),
    "NISysABP": Range(0, 500, "mmHg"),
    "Na": Range(50, 300, "mmol/L"),
    "PaCO2": Range(1, 300, "mmHg"),
    "PaO2": Range(1, 800, "mmHg"),
    "Platelets": Range(0, 10_000, "/nL"),
    "RespRate": Range(0, 200, "/min"),
    "SaO2": Range(1, 100, "%"),
    "SysABP": Range(0, 500, "mmHg"),
    "Temp": Range(10, 47, "°C"),
    "TroponinI": Range(0, 10_000, "µg/L"),
    "TroponinT": Range(0, 500, "µg/L"),
    "Urine": Range(0, 25_000, "mL"),
    "WBC": Range(0, 2_000, "/nL"),
    "Weight": Range(20, 700, "kg"),
    "pH": Range(6, 8.5),
}
LAST_MINUTE = 48 * 60  # of a row: the release ends there
STAY = Range(1, 3_650, "days", whole=True)  # or MISSING
SHARE = 0.5  # of a parameter's values beyond the limits, from MANY on: more, and they are in another unit
MANY = 10
