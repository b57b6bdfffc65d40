"""What the public ETHOS-ARES program makes of MIMIC-IV, written plainly: slow, and sharing nothing with ehr_scaling.

It follows that program's stages one after another over one list of rows, because their order decides what comes out:

1. extraction: every table in its order, every event of a table in turn, rows in the file's order; a null part of a
   code is "UNK"; rows without a time that parses are dropped; rows equal in all columns are kept once; stable sort by
   patient and time;
2. rewriting: each rule picks the rows whose code begins with its prefixes and normalises the names of ALL rows it
   picked (upper case, "," and "." deleted, " " → "_"). A later rule sees the normalised spelling of what an earlier
   one picked: admission types are compared without dots and spaces, so "EW EMER." is not found to end in "EMER.";
3. values → deciles: float32, break k = sorted[floor(k(n−1)/10 + ½)], Q(1 + breaks strictly below); no value is Q1;
4. intervals between rows of a patient, TIMELINE_END after the last.

Patients outside `train` are tokenized with the vocabulary, the labs and the breaks of those inside.
"""

import csv
import functools
import gzip
import io
import math
import re
import struct
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

MINUTE = 60_000_000
DAY = 1440 * MINUTE
HALF_YEAR = 180 * DAY
INTERVALS = [  # (name, lower bound in minutes), ascending; "=6mt" is repeated
    ("5m-15m", 5), ("15m-45m", 15), ("45m-1h15m", 45), ("1h15m-2h", 75), ("2h-3h", 120), ("3h-5h", 180),
    ("5h-8h", 300), ("8h-12h", 480), ("12h-18h", 720), ("18h-1d", 1080), ("1d-2d", 1440), ("2d-4d", 2880),
    ("4d-7d", 5760), ("7d-12d", 10080), ("12d-20d", 17280), ("20d-30d", 28800), ("30d-2mt", 43200), ("2mt-6mt", 86400),
]  # fmt: skip
# Three-character categories that program names itself, over the file of titles.
TITLES = {
    "F32": "Major depressive disorder, single episode",
    "I5A": "Non-ischemic myocardial injury (non-traumatic)",
    "U09": "Post COVID-19 condition",
    "Z09": "Encounter for follow-up examination after completed treatment",
}
SECOND, DATE = "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"


# --- extraction


def read(path):
    """The rows of a csv or csv.gz as dicts; an empty field is None."""
    gz = Path(f"{path}.csv.gz")
    text = gzip.decompress(gz.read_bytes()) if gz.exists() else Path(f"{path}.csv").read_bytes()
    lines = io.StringIO(text.decode("utf-8"), newline="")
    return [{k: v or None for k, v in row.items()} for row in csv.DictReader(lines)]


@functools.cache
def micros(text, *formats):
    """Microseconds since 1970 of `text` in the first of the formats it has, or None."""
    for form in formats:
        try:
            return int(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()) * 1_000_000
        except (ValueError, TypeError):
            continue
    return None


def float32(text):
    """`text` as the program stores a number."""
    return None if text is None else struct.unpack("f", struct.pack("f", float(text)))[0]


def code(*parts):
    return "//".join("UNK" if part is None else part for part in parts)


def event(rows, time, make, *formats, number=None, text=None, keep=()):
    """One kind of event of one table: a dict for each row with a time, equal ones kept once."""
    out = {}
    for row in rows:
        at = micros(row[time], *(formats or (SECOND,))) if time else None
        name = make(row)
        if name is None or (time and at is None):
            continue
        made = {
            "subject": int(row["subject_id"]),
            "time": at,
            "code": name,
            "number": number and float32(row[number]),
            "text": text and row[text],
            **{column: row[column] for column in keep},
        }
        out.setdefault(tuple(made.items()), made)
    return list(out.values())


def vitals(rows, time):
    """The events of one row of triage or vital signs, in the program's order."""
    names = {
        "TEMPERATURE": "temperature",
        "HEART_RATE": "heartrate",
        "RESPIRATORY_RATE": "resprate",
        "O2_SATURATION": "o2sat",
    }
    out = []
    for name, column in names.items():
        out += event(rows, time, lambda _, name=name: name, number=column, keep=["stay_id"])
    out += event(rows, time, lambda _: "Blood Pressure", number="sbp", text="dbp", keep=["stay_id"])
    return out + event(rows, time, lambda _: "PAIN", text="pain", keep=["stay_id"])


def extract(raw, ed):
    """All events, sorted by patient and time (null first)."""
    hosp, icu = Path(raw) / "hosp", Path(raw) / "icu"
    admissions = read(hosp / "admissions")
    discharged = {row["hadm_id"]: row["dischtime"] for row in admissions}
    rows = []
    if ed:
        stays, triage = read(Path(ed) / "ed/edstays"), read(Path(ed) / "ed/triage")
        came, left = ({row["stay_id"]: row[c] for row in stays} for c in ("intime", "outtime"))
        both = ["hadm_id", "stay_id"]
        rows += event(stays, "intime", lambda _: "ED_REGISTRATION", text="arrival_transport", keep=both)
        rows += event(stays, "outtime", lambda _: "ED_OUT", text="disposition", keep=both)
        triage = [{**row, "intime": came.get(row["stay_id"])} for row in triage]
        rows += vitals(triage, "intime")
        rows += event(triage, "intime", lambda _: "ACUITY", number="acuity", keep=["stay_id"])
        diagnosis = [{**row, "outtime": left.get(row["stay_id"])} for row in read(Path(ed) / "ed/diagnosis")]
        rows += event(
            diagnosis, "outtime", lambda r: code("DIAGNOSIS", "ICD", r["icd_version"], r["icd_code"]), keep=["stay_id"]
        )
    else:
        rows += event(admissions, "edregtime", lambda _: "ED_REGISTRATION")
        rows += event(admissions, "edouttime", lambda _: "ED_OUT")
    rows += event(
        admissions,
        "admittime",
        lambda r: code("HOSPITAL_ADMISSION", r["admission_type"], r["admission_location"]),
        keep=["insurance", "language", "marital_status", "race", "hadm_id"],
    )
    rows += event(
        admissions, "dischtime", lambda r: code("HOSPITAL_DISCHARGE", r["discharge_location"]), keep=["hadm_id"]
    )
    diagnoses = [{**row, "dischtime": discharged.get(row["hadm_id"])} for row in read(hosp / "diagnoses_icd")]
    rows += event(
        diagnoses, "dischtime", lambda r: code("DIAGNOSIS", "ICD", r["icd_version"], r["icd_code"]), keep=["hadm_id"]
    )
    drg = [{**row, "dischtime": discharged.get(row["hadm_id"])} for row in read(hosp / "drgcodes")]
    rows += event(
        drg,
        "dischtime",
        lambda r: code("DRG", r["drg_type"], r["drg_code"], r["description"]),
        keep=["hadm_id", "drg_severity", "drg_mortality"],
    )
    rows += event(
        read(hosp / "emar"),
        "charttime",
        lambda r: code("MEDICATION", r["medication"], r["event_txt"]),
        keep=["hadm_id", "emar_id", "emar_seq"],
    )
    if ed:
        rows += event(
            read(Path(ed) / "ed/pyxis"),
            "charttime",
            lambda r: code("MEDICATION", r["name"], "Administered"),
            keep=["stay_id"],
        )
    rows += event(
        read(hosp / "hcpcsevents"), "chartdate", lambda r: code("HCPCS", r["short_description"]), DATE, keep=["hadm_id"]
    )
    rows += event(
        read(hosp / "labevents"),
        "charttime",
        lambda r: code("LAB", r["itemid"], r["valueuom"]),
        number="valuenum",
        text="value",
        keep=["hadm_id", "priority"],
    )
    if ed:
        rows += vitals(read(Path(ed) / "ed/vitalsign"), "charttime")
    rows += event(read(hosp / "omr"), "chartdate", lambda r: r["result_name"], DATE, text="result_value")
    died = {}
    for row in admissions:
        if row["deathtime"]:
            died[row["subject_id"]] = min(row["deathtime"], died.get(row["subject_id"], row["deathtime"]))
    patients = read(hosp / "patients")
    for row in patients:
        row["born"] = str(int(row["anchor_year"]) - int(row["anchor_age"]))
        row["died"] = died.get(row["subject_id"]) or row["dod"]
    rows += event(patients, None, lambda r: code("GENDER", r["gender"]))
    rows += event(patients, "born", lambda _: "MEDS_BIRTH", "%Y")
    rows += event(patients, "died", lambda _: "MEDS_DEATH", SECOND, DATE)
    rows += event(
        read(hosp / "procedures_icd"),
        "chartdate",
        lambda r: code("PROCEDURE", "ICD", r["icd_version"], r["icd_code"]),
        DATE,
        keep=["hadm_id"],
    )
    rows += event(
        read(hosp / "transfers"),
        "intime",
        lambda r: code("TRANSFER_TO", r["eventtype"], r["careunit"]),
        keep=["hadm_id"],
    )
    stays = [{**row, "icustay_id": row["stay_id"]} for row in read(icu / "icustays")]
    rows += event(stays, "intime", lambda r: code("ICU_ADMISSION", r["first_careunit"]), keep=["hadm_id", "icustay_id"])
    rows += event(stays, "outtime", lambda r: code("ICU_DISCHARGE", r["last_careunit"]), keep=["hadm_id", "icustay_id"])
    unique = {}
    for row in rows:  # over the whole of a patient's tables, with the columns a table lacks null
        unique.setdefault(tuple(sorted((k, v) for k, v in row.items() if v is not None)), row)
    return sorted(unique.values(), key=by_time)


def by_time(row):
    return row["subject"], -math.inf if row["time"] is None else row["time"]


# --- rewriting


def unify(name):
    return name.upper().replace(",", "").replace(".", "").replace(" ", "_")


def rewrite(rows, prefixes, rule):
    """Rows picked by a prefix of their code are replaced, each where it stood, by what `rule` makes of it: a list of
    codes, (code, number) pairs or None; names are normalised; an empty one is none.
    """
    out = []
    for row in rows:
        if not row["code"].startswith(prefixes):
            out.append(row)
            continue
        for made in rule(row) or []:
            name, number = made if isinstance(made, tuple) else (made, row["number"])
            if name:
                out.append({**row, "code": unify(name), "number": number})
    return out


def known(rows, prefix, vocabulary):
    """Rows of a family without those the training patients do not have."""
    return [
        row for row in rows if vocabulary is None or not row["code"].startswith(prefix) or row["code"] in vocabulary
    ]


def admission(row):
    kind = row["code"].split("//")[1]
    if kind.endswith("EMER.") or kind == "URGENT":
        kind = "EMERGENCY"
    else:
        kind = "SCHEDULED" if kind in ("ELECTIVE", "SURGICAL SAME DAY ADMISSION") else "OBSERVATION"
    insurance = row.get("insurance")
    return ["HOSPITAL_ADMISSION", f"ADMISSION_TYPE//{kind}", insurance and f"INSURANCE//{insurance}"]


def race(text):
    """The group of a race as the program names it."""
    if text in ("UNKNOWN", "UNABLE TO OBTAIN", "PATIENT DECLINED TO ANSWER"):
        return "UNKNOWN"
    if text in (
        "NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER",
        "AMERICAN INDIAN/ALASKA NATIVE",
        "MULTIPLE RACE/ETHNICITY",
    ):
        return "OTHER"
    return {"SOUTH AMERICAN": "HISPANIC", "PORTUGUESE": "WHITE"}.get(text) or re.split("[/ ]", text)[0]


def static(rows):
    """patient → its static codes; BMI and age apart."""
    out = {}
    for row in rows:
        codes = out.setdefault(row["subject"], {"GENDER": [], "MARITAL": [], "RACE": []})
        if row["code"].startswith("GENDER"):
            codes["GENDER"].append(row["code"])
        if row["code"].startswith("HOSPITAL_ADMISSION"):
            if row["marital_status"]:
                codes["MARITAL"].append(unify("MARITAL//" + row["marital_status"]))
            if row["race"]:
                codes["RACE"].append(unify("RACE//" + race(row["race"])))
    for codes in out.values():  # one race: anything before OTHER before UNKNOWN, the first of equals
        codes["RACE"] = sorted(codes["RACE"], key=lambda c: {"RACE//OTHER": 1, "RACE//UNKNOWN": 2}.get(c, 0))[:1]
    return out


def discharges(rows, ed):
    """DRG//UNKNOWN after a hospital's last diagnosis, or after a discharge without one, where no DRG follows; then the
    discharge's two tokens. "Follows" is among the rows of discharges, diagnoses and DRGs alone, whosever they are.
    """
    picked = [row for row in rows if row["code"].startswith(("HOSPITAL_DISCHARGE", "DIAGNOSIS//ICD//", "DRG//"))]
    missing = set()
    for row, after in zip(picked, [*picked[1:], None], strict=True):
        follows = after["code"] if after else ""
        of_ed = bool(ed and after and after.get("stay_id"))
        if row["code"].startswith("DIAGNOSIS//ICD") and not (ed and row.get("stay_id")):
            goes_on = follows.startswith("DRG//") or (follows.startswith("DIAGNOSIS//ICD") and not of_ed)
            missing |= set() if goes_on else {id(row)}
        if row["code"].startswith("HOSPITAL_DISCHARGE") and (
            after is None or follows.startswith("HOSPITAL_DISCHARGE") or of_ed
        ):
            missing.add(id(row))
    care = (
        "HEALTHCARE FACILITY",
        "SKILLED NURSING FACILITY",
        "REHAB",
        "CHRONIC/LONG TERM ACUTE CARE",
        "OTHER FACILITY",
    )

    def rule(row):
        codes = [row["code"]]
        if row["code"].startswith("HOSPITAL_DISCHARGE"):
            place = row["code"].split("//")[1]
            codes = ["HOSPITAL_DISCHARGE", "DISCHARGE_LOCATION//" + ("HEALTHCARE_FACILITY" if place in care else place)]
        return [*codes, "DRG//UNKNOWN"] if id(row) in missing else codes

    return rewrite(rows, ("HOSPITAL_DISCHARGE", "DIAGNOSIS//ICD//", "DRG//"), rule)


def death_first(rows):
    """A death moves to before the discharge of the same patient at the same time."""
    out, deaths = [], {}
    discharged = {(row["subject"], row["time"]) for row in rows if row["code"] == "HOSPITAL_DISCHARGE"}
    for row in rows:
        if row["code"] == "MEDS_DEATH" and (row["subject"], row["time"]) in discharged:
            deaths[row["subject"], row["time"]] = row
        else:
            out.append(row)
    moved = []
    for row in out:
        if row["code"] == "HOSPITAL_DISCHARGE" and (row["subject"], row["time"]) in deaths:
            moved.append(deaths.pop((row["subject"], row["time"])))
        moved.append(row)
    return moved


def number_of(text):
    """`text` as a number, or None."""
    return float(text) if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text or "") else None


def pain(text):
    """A pain score from what a nurse wrote, or None."""
    text = text.lower().strip(' +"').removesuffix("/10")
    if "-" in text:
        score = number_of(text.split("-")[0].strip() + ".5")
    elif re.search("crit|moaning", text):
        score = 10.0
    elif re.search("lot|all over|hurts|much", text):
        score = 8.0
    elif text in ("yes", "mild", "moderate", "y", "pain", "uncomfortable"):
        score = 5.0
    elif re.search("little|not bad|some|discomfort", text):
        score = 2.0
    elif re.search("s[lep]{3,4}|sedat|n/a|resting", text) or text in ("no", "no pain", "ok", "none", "comfortable"):
        score = 0.0
    else:
        score = number_of(re.sub(r"\D", "", text))
    return score if score is not None and 0 <= score <= 10 else None


def pressure(row):
    """Systolic and diastolic: of an out-patient record "a/b"; of the emergency department a number, cut to an integer,
    and a text. Without the number the text is split, so a lone diastolic is taken for a systolic.
    """
    if row["number"] is None:
        high, low = ([*(row["text"] or "").split("/"), None][:2]) if row["text"] else (None, None)
    else:
        high, low = str(int(row["number"])), row["text"]
    return [("VITAL//BLOOD_PRESSURE", None), ("VITAL//Q//SBP", float32(high)), ("VITAL//Q//DBP", float32(low))]


def measured(row, name):
    value = row["number"] if name != "PAIN" else (pain(row["text"]) if row["text"] else None)
    return None if value is None else [(f"VITAL//{name}", value), (f"VITAL//Q//{name}", value)]


def parts(values, vocabulary):
    """The tokens of a code in parts: with a vocabulary, those before the first unknown; without, those there are."""
    values = [value and unify(value) for value in values]
    if vocabulary is not None:
        cut = next((i for i, value in enumerate(values) if value not in vocabulary), len(values))
        values = values[:cut]
    return values


def diagnosis(row, maps, vocabulary):
    _, _, version, icd = row["code"].split("//", 3)
    if version == "9":
        targets = sorted(maps["icd9cm"].get(icd, ()))
        icd = (targets[0][:3] if len(targets) > 1 else targets[0]) if targets else ""
    elif version != "10":
        raise ValueError("neither ICD-9 nor ICD-10")
    title = TITLES.get(icd[:3]) or maps["titles"].get(icd[:3])
    return parts(
        [
            title and f"ICD//CM//{title}",
            icd[3:6] and f"ICD//CM//3-6//{icd[3:6]}",
            icd[6:] and f"ICD//CM//SFX//{icd[6:]}",
        ],
        vocabulary,
    )


def procedure(row, maps, vocabulary):
    _, _, version, icd = row["code"].split("//")
    if version == "9":
        icd = min(maps["icd9pcs"].get(icd, ()), default="")
    codes = [f"ICD//PCS//{c}" for c in icd[:7]]
    return codes if vocabulary is None or all(c in vocabulary for c in codes) else None


def medication(row, maps, vocabulary):
    _, name, what, *_ = row["code"].split("//")
    out = []
    for atc in dict.fromkeys(maps["atc"].get(name.strip(" ").lower(), ())) if what == "Administered" else ():
        title = maps["atc_titles"].get(atc[:3])
        out += parts(
            [
                title and f"ATC//{atc[:3]}//{title}",
                atc[3:4] and f"ATC//4//{atc[3:4]}",
                atc[4:] and f"ATC//SFX//{atc[4:]}",
            ],
            vocabulary,
        )
    return out


def sofa(maps):
    """stay → Q1…Q10: ten equal widths over the scores there are, a whole number on an edge belonging to the upper."""
    scores = maps.get("sofa") or {}
    low, high = (min(scores.values()), max(scores.values())) if scores else (0, 0)
    edges = [low + (high - low) * i / 10 for i in range(11)]
    bins = {value: f"Q{i + 1}" for i in range(10) for value in range(math.ceil(edges[i]), math.floor(edges[i + 1]) + 1)}
    return {str(stay): bins[score] for stay, score in scores.items()}


def breaks_of(values):
    values = sorted(value for value in values if value is not None)
    at = [int((len(values) - 1) * q + 0.5) for q in (0.1, 0.2, 0.1 * 3, 0.4, 0.5, 0.1 * 6, 0.1 * 7, 0.8, 0.9)]
    return sorted({values[i] for i in at}) if values else []


def rows_to_tokens(rows, maps, ed, fitted):
    """[(patient, token, time)] and what a fit needs; `fitted` is None while fitting, else what a fit returned."""
    vocabulary = fitted and fitted["vocabulary"]
    dropped = (
        "INFUSION_",
        "SUBJECT_WEIGHT_AT_INFUSION",
        "Weight",
        "Height",
        "eGFR",
        "PROCEDURE//START",
        "PROCEDURE//END",
        "MEDICATION//START//",
        "SUBJECT_FLUID_OUTPUT//",
    )
    rows = [row for row in rows if not row["code"].startswith(dropped)]
    rows = rewrite(rows, "LAB//", lambda r: None if r["number"] is None else [r["code"]])
    rows = known(rows, "LAB//", vocabulary)
    moved = ("transfer", "admit")
    rows = rewrite(
        rows,
        "TRANSFER_TO",
        lambda r: ["TRANSFER//" + r["code"].split("//")[2]] if r["code"].split("//")[1] in moved else None,
    )
    rows = known(rows, "TRANSFER//", vocabulary)
    statics = static(rows)
    rows = rewrite(
        rows, "HOSPITAL_ADMISSION", lambda r: [r["code"]]
    )  # demographics are taken here, and the name normalised
    rows = rewrite(
        rows, "DRG", lambda r: [f"DRG//{int(r['code'].split('//')[2])}"] if r["code"].startswith("DRG//HCFA") else None
    )
    rows = known(rows, "DRG", vocabulary)
    rows = rewrite(rows, "HOSPITAL_ADMISSION", admission)
    rows = discharges(rows, ed)
    rows = known(rewrite(rows, "HCPCS//", lambda r: [r["code"]]), "HCPCS//", vocabulary)

    counts = Counter(row["code"] for row in rows if row["code"].startswith("LAB//"))
    labs = fitted["labs"] if fitted else [name for name, _ in sorted(counts.items(), key=lambda x: (-x[1], x[0]))[:200]]
    rows = rewrite(rows, "LAB//", lambda r: [r["code"], "LAB//Q//" + r["code"][5:]] if r["code"] in set(labs) else None)
    rows = death_first(rows)

    def bmi(row):
        value = float32(row["text"])
        return [("BMI//Q", value)] if value is not None and 10 <= value <= 100 else None

    def arrival(row):
        transport = "OTHER" if row["text"] == "HELICOPTER" else row["text"]
        return ["ED_REGISTRATION", transport and f"ED_TRANSPORT//{transport}"]

    rows = rewrite(rows, "BMI", bmi)
    rows = rewrite(rows, "ED_REGISTRATION", arrival)
    rows = rewrite(rows, "ACUITY", lambda r: None if r["number"] is None else ["ACUITY", f"Q{int(r['number'])}"])
    for name in ("TEMPERATURE", "HEART_RATE", "RESPIRATORY_RATE", "O2_SATURATION", "PAIN"):
        rows = rewrite(rows, name, lambda r, name=name: measured(r, name))
    rows = rewrite(rows, "Blood Pressure", pressure)
    scores = sofa(maps)

    def icu(row):
        kind, unit = row["code"].split("//")[:2]
        score = scores.get(row["icustay_id"])
        return [kind, f"ICU_TYPE//{unit}", *(["SOFA", score] if score else [])] if kind == "ICU_ADMISSION" else [kind]

    rows = rewrite(rows, "ICU_", icu)

    values = {}
    for row in rows:
        if row["code"].startswith(("LAB//Q//", "BMI//Q", "VITAL//Q//")):
            values.setdefault(row["code"], []).append(row["number"])
    breaks = fitted["breaks"] if fitted else {name: breaks_of(seen) for name, seen in values.items()}
    for row in rows:
        if edges := breaks.get(row["code"]):
            rank = 1 + (sum(edge < row["number"] for edge in edges) if row["number"] is not None else 0)
            row["code"] = f"BMI//Q{rank}" if row["code"] == "BMI//Q" else f"Q{rank}"
    rows = rewrite(rows, "DIAGNOSIS//ICD//", lambda r: diagnosis(r, maps, vocabulary))
    rows = rewrite(rows, "PROCEDURE", lambda r: procedure(r, maps, vocabulary))
    rows = rewrite(rows, "MEDICATION", lambda r: medication(r, maps, vocabulary))
    for row in rows:
        if row["code"].startswith("BMI//Q"):
            statics[row["subject"]].setdefault("BMI", []).append(row["code"])
    rows = [row for row in rows if not row["code"].startswith(("MEDS_BIRTH", "GENDER", "MARITAL", "RACE"))]
    return with_intervals(rows), {"labs": labs, "breaks": breaks, "counts": counts, "statics": statics}


def with_intervals(rows):
    """(patient, token, time) with intervals of 5 minutes and more before the rows that end them, and the end."""
    out = []
    for i, row in enumerate(rows):
        subject, time = row["subject"], row["time"]
        if i and rows[i - 1]["subject"] == subject:
            gap = time - rows[i - 1]["time"]
            if gap >= HALF_YEAR:
                out += [(subject, "=6mt", time)] * math.floor(gap / HALF_YEAR + 0.5)
            elif names := [name for name, minutes in INTERVALS if gap >= minutes * MINUTE]:
                out.append((subject, names[-1], time))
        out.append((subject, row["code"], time))
        if i + 1 == len(rows) or rows[i + 1]["subject"] != subject:
            out.append((subject, "TIMELINE_END", time))
    return [token for token in out if token[2] >= 0]  # before 1970 is taken for an error


def oracle(raw, maps, ed=None, train=None):
    """patient → [(token, time in µs)], and the facts of the vocabulary fitted on the patients `train` (None: all):
    "vocabulary" (list, in the program's order), "static" (its static tokens), "counts", "labs", "lab_counts", "breaks";
    and "stops", the tokens of other patients at which the program ends with an error, kept here."""
    rows = extract(Path(raw), ed and Path(ed))
    inside = [row for row in rows if train is None or row["subject"] in train]
    tokens, fitted = rows_to_tokens(inside, maps, ed, None)
    counts = Counter(token for _, token, _ in tokens)
    fixed = {
        c
        for codes in fitted["statics"].values()
        for name in ("BMI", "GENDER", "MARITAL", "RACE")
        for c in codes.get(name) or [f"{name}//UNKNOWN"]
    }
    stops: set[str] = set()
    vocabulary = list(dict.fromkeys([*sorted(fixed), *(token for token, _ in counts.most_common())]))
    fitted["vocabulary"] = set(vocabulary)
    if train is not None:
        others, _ = rows_to_tokens([row for row in rows if row["subject"] not in train], maps, ed, fitted)
        stops = {token for _, token, _ in others} - fitted["vocabulary"]
        tokens += others
    out = {}
    for subject, token, time in tokens:
        out.setdefault(subject, []).append((token, time))
    return out, {
        "vocabulary": vocabulary,
        "static": sorted(fixed),
        "counts": counts,
        "labs": fitted["labs"],
        "lab_counts": fitted["counts"],
        "breaks": fitted["breaks"],
        "stops": stops,
    }


# --- code maps


def load_maps(folder):
    """The code maps of a folder laid out as that program's own; SOFA scores apart: "sofa", {stay: score}."""

    def grouped(name, key, value, nothing=()):
        out = {}
        for row in read(Path(folder) / name):
            if row[value] and row[value] not in nothing:
                out.setdefault(row[key], []).append(row[value])
        return out

    drugs = {}
    for name, codes in grouped("mimic_drug_to_atc", "drug", "atc_code").items():
        drugs.setdefault(name.lower().strip(" "), []).extend(codes)
    return {
        "icd9cm": grouped("icd_cm_9_to_10_mapping", "icd_9", "icd_10", ("NoDx", "NoPCS")),
        "icd9pcs": grouped("icd_pcs_9_to_10_mapping", "icd_9", "icd_10", ("NoDx", "NoPCS")),
        "titles": {k: v[0] for k, v in grouped("icd10cm-order-Jan-2021", "code", "long").items()},
        "atc": drugs,
        "atc_titles": {k: v[-1] for k, v in grouped("atc_coding", "atc_code", "atc_name").items()},
    }
