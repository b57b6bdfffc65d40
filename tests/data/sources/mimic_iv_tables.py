"""Made-up tables in the layout of MIMIC-IV, and how the tests read what is made of them."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq

from ehr_scaling.data.sources.mimic import release as mimic_iv

# Patient 1 dies in hospital, after a discharge that is a bare date; patient 2 dies at home; patient 3 has labs only.
TABLES = {
    "hosp/patients": """subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod
3,M,30,2150,g,
1,F,52,2150,g,2150-03-09
2,M,91,2150,g,2150-07-01
""",
    "hosp/admissions": """subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admission_location,\
discharge_location,insurance,language,marital_status,race,edregtime,edouttime,hospital_expire_flag
1,101,2150-03-01 10:00:00,2150-03-04 12:00:00,,EW EMER.,EMERGENCY ROOM,REHAB,Medicare,?,,UNKNOWN,\
2150-03-01 08:00:00,2150-03-01 10:30:00,0
1,102,2150-03-06 10:00:00,2150-03-08 00:00:00,2150-03-08 22:20:00,URGENT,,DIED,,?,MARRIED,\
BLACK/CAPE VERDEAN,,,1
2,201,2150-06-01 07:15:00,2150-06-03 09:00:00,,SURGICAL SAME DAY ADMISSION,PHYSICIAN REFERRAL,HOME,Other,?,\
SINGLE,PORTUGUESE,,,0
""",
    "hosp/transfers": """subject_id,hadm_id,transfer_id,eventtype,careunit,intime,outtime
1,101,1,admit,Medicine,2150-03-01 10:00:00,2150-03-02 00:00:00
1,101,2,transfer,Trauma SICU (TSICU),2150-03-02 00:00:00,2150-03-03 00:00:00
1,101,3,discharge,,2150-03-04 12:00:00,
""",
    "icu/icustays": """subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los
1,101,11,Trauma SICU (TSICU),Coronary Care Unit (CCU),2150-03-02 00:00:00,2150-03-03 00:00:00,1
""",
    "hosp/omr": """subject_id,chartdate,seq_num,result_name,result_value
2,2150-05-01,1,Blood Pressure Sitting,130/75
2,2150-05-01,1,BMI (kg/m2),27.5
2,2150-05-01,2,BMI (kg/m2),2750
2,2150-05-01,1,Weight (Lbs),150
2,2150-05-02,1,Blood Pressure,unable
""",
    "hosp/procedures_icd": """subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version
2,201,2,2150-06-01,0SR90,10
2,201,1,2150-06-01,8154,9
""",
    "hosp/hcpcsevents": """subject_id,hadm_id,chartdate,hcpcs_cd,seq_num,short_description
2,201,2150-06-02,99218,1,"Hospital, obs. per hr"
""",
    "hosp/labevents": """labevent_id,subject_id,hadm_id,specimen_id,itemid,charttime,storetime,value,valuenum,valueuom,\
priority,comments
1,3,,1,50912,2149-01-01 09:00:00,,1.1,1.1,mg/dL,,
2,3,,1,50813,2149-01-01 09:00:00,,2,2, ,STAT,"he said ""no"", then
left"
3,3,,1,51000,2149-01-01 09:00:00,,NEG,,,,
4,1,,1,50912,2150-03-08 22:20:00,,3,3,mg/dL,,
5,3,,1,50971,2149-01-01 09:00:00,,4,4,mEq/L,,
6,3,,1,50971,2149-01-01 09:00:00,,4,4,mEq/L,,
""",
    "hosp/emar": """subject_id,hadm_id,emar_id,emar_seq,charttime,storetime,medication,event_txt
1,101,x,1,2150-03-01 11:00:00,,Heparin 5.000 Units,Administered
1,101,x,2,2150-03-01 11:00:00,,Heparin,Not Given
1,101,x,3,2150-03-01 11:00:00,,,Administered
""",
    "hosp/diagnoses_icd": """subject_id,hadm_id,seq_num,icd_code,icd_version
1,102,2,I10,10
1,102,1,A419,10
2,201,1,7150,9
""",
    "hosp/drgcodes": """subject_id,hadm_id,drg_type,drg_code,description,drg_severity,drg_mortality
1,102,APR,720,SEPSIS,4,4
1,102,HCFA,871,"SEPSIS W MV >96 HOURS, OR SO",,
""",
}

ED = {
    "ed/edstays": """subject_id,hadm_id,stay_id,intime,outtime,gender,race,arrival_transport,disposition
1,101,91,2150-03-01 08:05:00,2150-03-01 10:30:00,F,WHITE,AMBULANCE,ADMITTED
3,,92,2149-01-01 09:00:00,2149-01-01 11:00:00,M,WHITE,,HOME
""",
    "ed/triage": """subject_id,stay_id,temperature,heartrate,resprate,o2sat,sbp,dbp,pain,acuity,chiefcomplaint
1,91,98.6,101,18,97,120,80,7-8,2,secret
3,92,,80,,,,,unable,3,secret
""",
    "ed/vitalsign": """subject_id,stay_id,charttime,temperature,heartrate,resprate,o2sat,sbp,dbp,rhythm,pain
3,92,2149-01-01 09:00:00,,80,,,110,70,,0
3,92,2149-01-01 10:00:00,,inf,,,,,,13
""",
    "ed/diagnosis": """subject_id,stay_id,seq_num,icd_code,icd_version,icd_title
3,92,2,R0789,10,secret
3,92,1,I10,10,secret
""",
    "ed/pyxis": """subject_id,stay_id,charttime,med_rn,name,gsn_rn,gsn
3,92,2149-01-01 09:30:00,1,Aspirin,1,004380
3,92,2149-01-01 09:30:00,1,Aspirin,2,004381
""",
}


def release(folder, tables):
    for name, text in tables.items():
        put(folder, name, text)
    return folder


def put(folder, name, text):
    path = folder / f"{name}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def extracted(raw, tmp_path, **options):
    """Events and summary."""
    out = tmp_path / f"events{len(list(tmp_path.iterdir()))}"
    out.mkdir()
    summary = mimic_iv.extract(raw, out, **{"seed": 0, "splits": (1.0, 0.0, 0.0), **options})
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == ["data", "metadata"]
    return pa.concat_tables(pq.read_table(p) for p in sorted((out / "data").rglob("*.parquet"))), summary


def extract(raw, tmp_path, **options):
    return extracted(raw, tmp_path, **options)[0]


def rows(table, subject):
    return [
        (f"{r['time']:%m-%d %H:%M:%S}" if r["time"] else None, r["code"], r["numeric_value"])
        for r in table.to_pylist()
        if r["subject_id"] == subject
    ]
