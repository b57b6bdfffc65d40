"""What the generated MIMIC-IV release is made of: the commonest laboratory items, codes and names.

Frequencies (in thousands of rows), units and reference ranges of laboratory items are those of MIMIC-IV v2.0;
typical values and spreads are rounded figures of adult inpatients. Drugs are named as in MIMIC-IV's eMAR. Lists are
in the order of frequency.
"""

# (fluid, category): items "itemid label thousands unit lower upper", then "n median sd decimals" (normal),
# "l median sigma decimals" (lognormal, sigma of its logarithm) or "t kind" (words, see WORDS); _ is a space, - nothing
LABS = {
    ("Blood", "Hematology"): """
51221 Hematocrit 3492 % 40 51 n 29.9 6.89 1; 51265 Platelet_Count 3371 K/uL 150 400 l 190 0.69 0;
51222 Hemoglobin 3339 g/dL 13.7 17.5 n 9.8 2.22 1; 51301 White_Blood_Cells 3321 K/uL 4 10 l 9.3 0.56 1;
51249 MCHC 3316 g/dL 32 37 n 32.6 1.56 1; 51279 Red_Blood_Cells 3316 m/uL 4.6 6.1 n 3.33 0.785 2;
51250 MCV 3316 fL 82 98 n 91 7.41 0; 51248 MCH 3316 pg 26 32 n 30.1 2.59 1; 51277 RDW 3316 % 10.5 15.5 n 15.4 2.52 1;
51237 INR(PT) 1463 - 0.9 1.1 n 1.3 0.37 2; 51274 PT 1462 sec 9.4 12.5 n 14 3.57 1;
52172 RDW-SD 1398 fL 35.1 46.3 n 52.1 10.2 1; 51275 PTT 1319 sec 25 36.5 l 33.4 0.35 1;
51244 Lymphocytes 1309 % 19 53 l 17.9 0.9 1; 51256 Neutrophils 1309 % 34 71 l 64 0.33 1;
51254 Monocytes 1309 % 5 13 l 6.9 0.72 1; 51146 Basophils 1309 % 0 1 n 0.4 0.667 1;
51200 Eosinophils 1309 % 1 7 l 1.2 2.5 1; 52075 Absolute_Neutrophil_Count 555 K/uL 1.6 6.1 l 6.08 0.88 2;
52073 Absolute_Eosinophil_Count 532 K/uL 0.04 0.54 n 0.12 0.244 2;
52074 Absolute_Monocyte_Count 532 K/uL 0.2 0.8 l 0.81 0.73 2;
52069 Absolute_Basophil_Count 532 K/uL 0.01 0.08 n 0.03 0.0593 2;
51133 Absolute_Lymphocyte_Count 532 K/uL 1.2 3.7 l 1.81 1.2 2; 52135 Immature_Granulocytes 421 % 0 0.6 l 0.5 0.63 1;
51266 Platelet_Smear 280 N/A - - t smear; 51137 Anisocytosis 262 N/A - - t smear;
51267 Poikilocytosis 262 N/A - - t smear; 51246 Macrocytes 258 N/A - - t smear;
51268 Polychromasia 257 N/A - - t smear; 51252 Microcytes 255 N/A - - t smear; 51233 Hypochromia 254 N/A - - t smear;
51144 Bands 244 % 0 5 n 0 1.48 0; 51251 Metamyelocytes 227 % 0 0 n 0 1.48 0; 51255 Myelocytes 225 % 0 0 n 0 1 0;
51143 Atypical_Lymphocytes 224 % 0 0 n 0 1 0; 51260 Ovalocytes 127 N/A - - t smear;
51214 Fibrinogen,_Functional 117 mg/dL 180 400 l 282 0.73 0; 51257 Nucleated_Red_Cells 85 % 0 0 l 1 0.51 1;
51296 Teardrop_Cells 79 N/A - - t smear; 51287 Schistocytes 68 N/A - - t smear;
51288 Sedimentation_Rate 64 mm/hr 0 15 l 59 0.37 0; 51283 Reticulocyte_Count,_Automated 55 % 0.4 2 l 2.25 0.51 1;
52111 Echinocytes 42 N/A - - t smear; 51282 Reticulocyte_Count,_Absolute 27 m/uL 0.02 0.1 l 0.08 0.55 2
""",
    ("Blood", "Chemistry"): """
50912 Creatinine 3418 mg/dL 0.5 1.2 l 1 0.66 1; 51006 Urea_Nitrogen 3322 mg/dL 6 20 l 19 0.73 0;
50971 Potassium 3309 mEq/L 3.3 5.1 n 4.1 0.519 1; 50983 Sodium 3277 mEq/L 133 145 n 138 5.19 0;
50902 Chloride 3240 mEq/L 96 108 n 101 5.93 0; 50882 Bicarbonate 3122 mEq/L 22 32 n 25 4.44 0;
50868 Anion_Gap 3115 mEq/L 8 20 n 14 3.7 0; 50931 Glucose 2862 mg/dL 70 100 l 121 0.37 0;
50893 Calcium,_Total 2278 mg/dL 8.4 10.3 n 8.5 0.667 1; 50960 Magnesium 2237 mg/dL 1.6 2.6 n 2 0.296 1;
50970 Phosphate 2147 mg/dL 2.7 4.5 l 3.5 0.3 1; 50934 H 1507 U 0 40 l 7 1.2 0; 51678 L 1507 U 0 60 l 10 0.61 0;
50947 I 1507 U 0 10 n 1 1 0; 50920 Estimated_GFR_(MDRD_equation) 1431 - - - t hold;
50861 Alanine_Aminotransferase_(ALT) 1397 IU/L 0 40 l 28 0.97 0;
50878 Asparate_Aminotransferase_(AST) 1369 IU/L 0 40 l 37 0.79 0;
50885 Bilirubin,_Total 1320 mg/dL 0 1.5 l 0.5 1.1 1; 50863 Alkaline_Phosphatase 1215 IU/L 40 130 l 91 0.44 0;
50862 Albumin 775 g/dL 3.5 5.2 n 3.6 0.741 1; 50954 Lactate_Dehydrogenase_(LD) 488 IU/L 94 250 l 281 0.98 0;
51003 Troponin_T 374 ng/mL 0 0.01 l 0.05 1.6 0; 50993 Thyroid_Stimulating_Hormone 331 uIU/mL 0.27 4.2 l 2.15 0.95 2;
50933 Green_Top_Hold_(plasma) 317 - - - t hold; 50910 Creatine_Kinase_(CK) 294 IU/L 47 322 l 124 1.3 0;
50887 Blue_Top_Hold 287 - - - t hold; 51000 Triglycerides 266 mg/dL 0 149 l 114 0.87 0;
50907 Cholesterol,_Total 262 mg/dL 0 199 l 172 0.34 0; 50904 Cholesterol,_HDL 256 mg/dL 41 999 l 52 0.47 0;
50903 Cholesterol_Ratio_(Total/HDL) 255 Ratio - - l 3.45 0.4 1; 50956 Lipase 239 IU/L 0 60 l 36 0.93 0;
50955 Light_Green_Top_Hold 238 - - - t hold; 50911 Creatine_Kinase,_MB_Isoenzyme 237 ng/mL 0 10 l 4 1.2 1;
50852 %_Hemoglobin_A1c 233 % 4.8 5.9 l 7.5 0.33 0; 50905 Cholesterol,_LDL,_Calculated 233 mg/dL 0 129 l 97.5 0.52 0;
51613 eAG 201 mg/dL 91 123 l 169 0.42 0; 50883 Bilirubin,_Direct 199 mg/dL 0 0.3 l 1.5 1.3 1;
50884 Bilirubin,_Indirect 195 mg/dL - - l 1.1 1.3 1; 50979 Red_Top_Hold 181 - - - t hold;
50976 Protein,_Total 165 g/dL 6.4 8.3 n 6.7 0.593 1; 50924 Ferritin 142 ng/mL 30 400 l 373 2 1;
51007 Uric_Acid 138 mg/dL 3.4 7 l 5.9 0.52 1; 50930 Globulin 130 g/dL 2 4 n 2.7 0.481 1;
50889 C-Reactive_Protein 122 mg/L 0 5 l 16.9 2.3 1; 50952 Iron 122 ug/dL 30 160 l 36 1 0;
50998 Transferrin 109 mg/dL 200 360 l 172 0.65 0; 50953 Iron_Binding_Capacity,_Total 109 ug/dL 260 470 l 224 0.65 0;
51010 Vitamin_B12 108 pg/mL 240 900 l 597 0.42 0; 50995 Thyroxine_(T4),_Free 107 ng/dL 0.93 1.7 n 1.1 0.222 2;
51009 Vancomycin 104 ug/mL 10 20 l 15.4 0.42 1; 50922 Ethanol 93 mg/dL 10 10 t screen;
50856 Acetaminophen 91 ug/mL 10 30 t screen; 50981 Salicylate 89 mg/dL 2 25 t screen;
50999 Tricyclic_Antidepressant_Screen 88 N/A - - t screen; 50867 Amylase 86 IU/L 0 100 l 65 0.8 0;
50919 EDTA_Hold 85 - - - t hold; 50853 25-OH_Vitamin_D 81 ng/mL 30 60 l 32 0.44 0;
50880 Benzodiazepine_Screen 74 N/A - - t screen; 50879 Barbiturate_Screen 74 N/A - - t screen;
50963 NTproBNP 69 pg/mL 0 177 l 3690 2.1 0; 50941 Hepatitis_B_Surface_Antigen 65 N/A - - t screen;
50943 Hepatitis_C_Virus_Antibody 64 N/A - - t screen; 50974 Prostate_Specific_Antigen 61 ng/mL 0 4 l 1.25 0.64 0;
50940 Hepatitis_B_Surface_Antibody 56 N/A - - t screen; 50925 Folate 55 ng/mL 2 20 n 16 3.15 1;
50965 Parathyroid_Hormone 51 pg/mL 15 65 l 35 0.9 0; 50950 Immunoglobulin_G 48 mg/dL 700 1600 l 836 0.51 0;
50935 Haptoglobin 45 mg/dL 30 200 l 124 1 0; 50975 Protein_Electrophoresis 44 - - - t hold;
50949 Immunoglobulin_A 44 mg/dL 70 400 l 156 0.69 0; 50964 Osmolality,_Measured 42 mOsm/kg 275 310 n 285 16.9 0;
50900 Carcinoembyronic_Antigen_(CEA) 41 ng/mL 0 4 l 3.3 0.65 0;
50942 Hepatitis_B_Virus_Core_Antibody 40 N/A - - t screen; 50951 Immunoglobulin_M 38 mg/dL 40 230 l 55.5 0.58 0;
50873 Anti-Nuclear_Antibody 28 N/A - - t screen; 50909 Cortisol 27 ug/dL 2 20 l 18.7 0.59 0;
50908 CK-MB_Index 26 % 0 6 l 3.5 1.8 1; 51706 Problem_Specimen 26 - - - t hold;
50915 D-Dimer 24 ng/mL 0 500 l 1180 1.1 0; 50994 Thyroxine_(T4) 23 ug/dL 4.6 12 n 5.5 1.26 1;
50937 Hepatitis_A_Virus_Antibody 18 N/A - - t screen; 51752 Voided_Specimen 17 - - - t hold
""",
    ("Urine", "Hematology"): """
51486 Leukocytes 713 N/A - - t smear; 51506 Urine_Appearance 713 N/A - - t clear;
51498 Specific_Gravity 713 - 1.001 1.035 n 1.02 0.00741 3; 51491 pH 713 units 5 8 n 6 0.741 1;
51466 Blood 713 N/A - - t dip; 51478 Glucose 713 mg/dL 0 0 t dip; 51492 Protein 713 mg/dL 0 0 l 30 0.89 0;
51484 Ketone 713 mg/dL 0 0 t dip; 51464 Bilirubin 713 mg/dL - - t dip; 51487 Nitrite 713 N/A - - t screen;
51514 Urobilinogen 713 mg/dL 0.2 1 t dip; 51493 RBC 502 #/hpf 0 2 l 3 1.8 0; 51516 WBC 502 #/hpf 0 5 l 5 1.7 0;
51463 Bacteria 502 /hpf - - t count; 51476 Epithelial_Cells 502 #/hpf - - n 0 1 0; 51519 Yeast 502 /hpf - - t count;
51512 Urine_Mucous 331 /hpf - - t count; 51508 Urine_Color 133 N/A - - t color;
51482 Hyaline_Casts 110 #/lpf 0 0 l 6 1.2 0; 51501 Transitional_Epithelial_Cells 66 #/hpf - - t count;
51462 Amorphous_Crystals 35 /hpf - - t count; 51518 WBC_Clumps 19 /hpf - - t screen;
51479 Granular_Casts 15 #/lpf 0 0 l 6 0.6 0
""",
    ("Urine", "Chemistry"): """
51087 Length_of_Urine_Collection 668 - - - t hold; 51082 Creatinine,_Urine 194 mg/dL - - l 70.5 0.66 0;
51103 Uhold 159 - - - t hold; 51107 Urine_tube,_held 135 - - - t hold;
51102 Total_Protein,_Urine 93 mg/dL - - l 44 1.5 0; 51085 HCG,_Urine,_Qualitative 85 +/- - - t screen;
51092 Opiate_Screen,_Urine 84 N/A - - t screen; 51079 Cocaine,_Urine 84 N/A - - t screen;
51075 Benzodiazepine_Screen,_Urine 83 N/A - - t screen; 51071 Amphetamine_Screen,_Urine 83 N/A - - t screen;
51090 Methadone,_Urine 83 N/A - - t screen; 51074 Barbiturate_Screen,_Urine 83 N/A - - t screen;
51099 Protein/Creatinine_Ratio 80 mg/mg 0 0.2 l 0.8 1.5 1; 51100 Sodium,_Urine 70 mEq/L - - l 40 0.63 0;
51069 Albumin,_Urine 59 mg/dL - - l 5.8 3.1 1; 51070 Albumin/Creatinine,_Urine 57 mg/g 0 30 l 79.2 2.9 1;
51093 Osmolality,_Urine 52 mOsm/kg - - n 352 100 0; 51097 Potassium,_Urine 42 mEq/L - - l 40.5 0.39 0;
51078 Chloride,_Urine 41 mEq/L - - l 45.5 1.3 0; 51104 Urea_Nitrogen,_Urine 35 mg/dL - - l 338 0.53 0;
51989 Oxycodone 34 N/A - - t screen
""",
    ("Blood", "Blood Gas"): """
52033 Specimen_Type 665 - - - t blood; 50820 pH 625 units 7.35 7.45 n 7.38 0.0889 2;
50802 Base_Excess 569 mEq/L - - n -1 4.44 0; 50804 Calculated_Total_CO2 569 mEq/L 21 30 n 25 5.93 0;
50821 pO2 569 mm_Hg 85 105 l 99 0.51 0; 50818 pCO2 569 mm_Hg 35 45 n 40 8.89 0;
50813 Lactate 532 mmol/L 0.5 2 l 1.8 0.49 1; 50808 Free_Calcium 299 mmol/L 1.12 1.32 n 1.12 0.0741 2;
50822 Potassium,_Whole_Blood 259 mEq/L 3.3 5.1 n 4.2 0.741 1; 50809 Glucose 223 mg/dL 70 105 n 130 28.9 0;
50817 Oxygen_Saturation 186 % - - n 94 17.8 0; 50812 Intubated 164 - - - t vent;
50824 Sodium,_Whole_Blood 118 mEq/L 133 145 n 136 4.44 0; 50810 Hematocrit,_Calculated 117 % - - n 32 8.89 0;
50811 Hemoglobin 117 g/dL 14 18 l 10.5 0.3 1; 50825 Temperature 109 - - - n 37 0.667 1;
50816 Oxygen 92 % - - n 50 14.8 0; 50806 Chloride,_Whole_Blood 89 mEq/L 96 108 n 105 4.44 0;
50819 PEEP 60 - - - l 8 0.51 0; 50828 Ventilator 60 - - - t vent; 50827 Ventilation_Rate 57 - - - t vent;
50826 Tidal_Volume 51 - - - n 450 78.7 0; 50803 Calculated_Bicarbonate,_Whole_Blood 24 mEq/L 21 30 n 24 2.22 0;
52023 Assist/Control 22 - - - t vent; 50823 Required_O2 15 - - - n 84 11.5 0;
50801 Alveolar-arterial_Gradient 15 mm_Hg - - n 504 81.1 0; 50815 O2_Flow 10 L/min - - l 4 0.95 0
""",
    ("Pleural", "Hematology"): """
52391 Total_Nucleated_Cells,_Pleural 8 #/uL 0 0 l 500 1.3 0; 51446 Lymphocytes 8 % 0 0 l 22 0.51 0;
51450 Monos 8 % 0 0 n 3 7.41 0; 51455 Polys 8 % 0 0 l 38 0.62 0; 51457 RBC,_Pleural 7 #/uL 0 0 l 6550 2 0
""",
    ("Pleural", "Chemistry"): """
51054 Lactate_Dehydrogenase,_Pleural 8 IU/L - - l 320 0.32 0; 51059 Total_Protein,_Pleural 8 g/dL - - n 3.6 0.889 1
""",
    ("Other Body Fluid", "Hematology"): """
51431 Monos 5 % 0 0 n 2 4.44 0; 51427 Lymphocytes 5 % 0 0 l 6 1.1 0; 51436 Polys 5 % 0 0 l 55 0.8 0
""",
}

DRUGS = """
Sodium Chloride 0.9%  Flush; Insulin; Heparin; Metoprolol Tartrate; Docusate Sodium; Acetaminophen;
HYDROmorphone (Dilaudid); OxyCODONE (Immediate Release); Furosemide; Pantoprazole; Senna; Levothyroxine Sodium;
Fentanyl Citrate; Aspirin; Lidocaine 5% Patch; Lactulose; Midodrine; Acyclovir; Gabapentin;
Heparin Flush (10 units/ml); Multivitamins; Vitamin D; Vancomycin; Atorvastatin; CefePIME; Calcium Carbonate;
Potassium Chloride; Chlorhexidine Gluconate 0.12% Oral Rinse; Thiamine; FoLIC Acid; Propofol; Piperacillin-Tazobactam;
Ipratropium-Albuterol Neb; Famotidine; Nicotine Patch; Lorazepam; sevelamer CARBONATE; Allopurinol;
Polyethylene Glycol; Morphine Sulfate; Acetaminophen IV; OxycoDONE (Immediate Release); MetroNIDAZOLE;
Ferrous Sulfate; HydrALAZINE; LORazepam; Ondansetron; ZIPRASidone Hydrochloride; Diltiazem; Omeprazole;
Magnesium Sulfate; Rifaximin; Vancomycin Oral Liquid; Warfarin; Amiodarone; Isosorbide Dinitrate; Norepinephrine;
PHENYLEPHrine; Multivitamins W/minerals; Ipratropium Bromide Neb; Torsemide; MetRONIDAZOLE (FLagyl);
Tiotropium Bromide; NORepinephrine; Fluticasone Propionate 110mcg; Midazolam; Ciprofloxacin HCl;
Metoprolol Succinate XL; Enoxaparin Sodium; Docusate Sodium (Liquid); Miconazole Powder 2%; Octreotide Acetate;
Albuterol Inhaler; Escitalopram Oxalate; Meropenem; Morphine SR (MS Contin); Sucralfate; Cyanocobalamin; Digoxin;
HydrALAzine; Fluticasone Propionate NASAL; Nystatin Cream; CefTRIAXone; Ranitidine; Albuterol 0.083% Neb Soln;
Bisacodyl; Carvedilol; TraZODone; BusPIRone; FLUoxetine; Magnesium Oxide; Metoclopramide; Spironolactone;
LevETIRAcetam; Sodium Chloride Nasal; ALPRAZolam; Diazepam; Ipratropium Bromide MDI;
Lansoprazole Oral Disintegrating Tab; QUEtiapine Fumarate; Albumin 25% (12.5g / 50mL); Acetaminophen (Liquid);
OxycoDONE Liquid; Dexmedetomidine; Labetalol; Fenofibrate; Nystatin Oral Suspension; Lisinopril; Phosphorus;
Sodium Bicarbonate; Colchicine; PrednisoLONE Acetate 1% Ophth. Susp.; Rosuvastatin Calcium; Propranolol; Amlodipine;
Topiramate (Topamax); Dexamethasone; Simvastatin; Nephrocaps; Ascorbic Acid; Fish Oil (Omega 3); Losartan Potassium;
CeftriaXONE; Captopril; Ampicillin-Sulbactam; LOPERamide; Vasopressin; Mirtazapine; Neutra-Phos; Rivaroxaban;
Hydroxyurea; Methimazole; Ciprofloxacin; Dextrose 50%; Ciprofloxacin 0.3% Ophth Soln; Clindamycin;
Doxycycline Hyclate; Mupirocin Ointment 2%; OxyCODONE SR (OxyconTIN); CefazoLIN; DOBUTamine;
Acetaminophen-Caff-Butalbital; Ketorolac; LeVETiracetam; Tamsulosin; Influenza Vaccine Quadrivalent; MoviPrep;
amLODIPine; Fluconazole; Aspirin EC; BuPROPion; Heparin Dwell (1000 Units/mL); TraMADol; Nitroglycerin;
Esomeprazole sodium; LamoTRIgine; Phytonadione; PredniSONE; Clopidogrel; Finasteride;
OLANZapine (Disintegrating Tablet); Caphosol; OLANZapine; Brimonidine Tartrate 0.15% Ophth.; CeFAZolin; Levofloxacin;
Milk of Magnesia; Valproic Acid; Atenolol; Baclofen; CefTAZidime; Diltiazem Extended-Release; Pregabalin; Benzonatate;
Calcium Gluconate; GuaiFENesin; Zinc Sulfate; Artificial Tear Ointment; Hydrocerin; ClonazePAM; Erythromycin;
Sulfameth/Trimethoprim DS; irbesartan; Citalopram; DiphenhydrAMINE; Ursodiol; Vitamin E; Zolpidem Tartrate; Ibuprofen;
Ramelteon; Alteplase 1mg/2mL ( Clearance ie. PICC, tunneled access line ); MetFORMIN (Glucophage);
Neomycin-Polymyxin-Bacitracin; Calcitriol; Lidocaine 1% (For PICC/Midline Insertions); TraMADOL (Ultram);
Cyclopentolate 1%; MethylPREDNISolone Sodium Succ; Phenylephrine 2.5 % Ophth Soln; Sarna Lotion;
Sulfameth/Trimethoprim SS; Guaifenesin ER; PNEUMOcoccal 23-valent polysaccharide vaccine; Apixaban;
Divalproex (DELayed Release); Fludrocortisone Acetate; Haloperidol; Heparin Flush (100 units/ml); Magnesium Citrate;
Metolazone; Potassium Phosphate; Triamcinolone Acetonide 0.1% Cream; Tropicamide 1 %;
Readi-Cat 2 (Barium Sulfate 2% Suspension); Aluminum-Magnesium Hydrox.-Simethicone; EPINEPHrine; Epoetin Alfa;
Isosorbide Mononitrate (Extended Release); Phenazopyridine; Artificial Tears; Lidocaine Jelly 2% (Urojet); Micafungin;
Morphine Sulfate IR; Potassium Chloride (Powder); Simethicone; Albumin 5% (12.5g / 250mL); Nitroglycerin SL;
Scopolamine Patch; Vitamin B Complex; Azithromycin; Fluoxetine; Lactulose Enema; Lidocaine 1%; Loratadine;
Sodium Polystyrene Sulfonate; HydrOXYzine; Artificial Tears Preserv. Free; Chlorothiazide; Hydrochlorothiazide;
Methylnaltrexone; Pseudoephedrine; Rasburicase; Albumin 5% (25g / 500mL); Latanoprost 0.005% Ophth. Soln.;
Pancrelipase 5000; Heparin (CRRT Machine Priming); Ondansetron ODT; Glucose Gel; Glycopyrrolate;
Insulin (Regular) for Hyperkalemia; Lidocaine Viscous 2%; Sodium Phosphate; Alteplase; Guaifenesin; OSELTAMivir;
Promethazine; Tuberculin Protein; Esmolol; Ferric Gluconate; GlipiZIDE XL; Sodium CITRATE 4%;
Tetracaine 0.5% Ophth Soln; Amitriptyline; Amoxicillin-Clavulanic Acid; Cepacol (Sore Throat Lozenge); Cosyntropin;
Donnatal; Insulin Glargine  (CVICU Protocol); Lidocaine Jelly 2% (Glydo); NiCARdipine; Verapamil; Cephalexin;
Desmopressin Acetate; Fleet Enema; Gastroview (Diatrizoate Meglumine & Sodium); Oxycodone-Acetaminophen (5mg-325mg);
0.9% Sodium Chloride; 5% Dextrose; Lactated Ringers; Iso-Osmotic Dextrose; Sterile Water; Ceftriaxone; Sertraline;
Duloxetine; Venlafaxine; Melatonin; Montelukast; Pravastatin; Glipizide; Glargine; Ketamine; Rocuronium;
Cisatracurium; Mycophenolate Mofetil; Tacrolimus; Cyclosporine; Ganciclovir; ValGANCIclovir; Linezolid; Daptomycin;
Tobramycin; Gentamicin; Doxazosin; Terazosin; Nadolol; Bumetanide; Acetazolamide; Mannitol; Oxytocin; Naproxen;
Celecoxib; Tizanidine; Buprenorphine; Naloxone; Carbamazepine; OXcarbazepine; Lacosamide; Phenytoin Sodium;
Lithium Carbonate; ARIPiprazole; CloZAPine; Donepezil; Memantine; Pramipexole; Carbidopa-Levodopa (25-100);
Benztropine Mesylate; Bivalirudin; Fondaparinux; Ticagrelor; Eptifibatide; Nitroprusside Sodium; Ranolazine; Sotalol;
Flecainide Acetate; Dofetilide; Valsartan; Ramipril; Quinapril; Alendronate Sodium; Letrozole; Anastrozole;
Megestrol Acetate; Filgrastim; RiTUXimab; Zolpidem; Temazepam; Atovaquone Suspension; Isoniazid; Rifampin;
Ethambutol HCl; Oseltamivir; Entecavir; Abacavir Sulfate; Darunavir; Dolutegravir; Penicillin G Potassium; Nafcillin;
Cefpodoxime Proxetil; Nitrofurantoin Monohyd (MacroBID); Aztreonam; Ertapenem; Minocycline
"""

ICD10CM = """
I340 J45909 N183 I2510 I480 K766 N179 Z8249 Z853 J9601 R6521 Z781 I10 J189 K219 N189 Y929 Z7902 E039 E6601 N186 Z794
Z950 F329 G4733 I129 K7031 D649 E780 Z86718 Z87891 I4891 I5023 I959 E11649 I120 I214 I272 Z8547 E669 F17210 R740 Y848
Z7901 A419 D62 D696 E11621 E1165 G40909 G4700 I5032 E871 I130 C9110 E1122 N390 Z515 Z66 Z992 D631 E43 E875 F419 I110
J449 M109 Z8673 Z955 E785 G8929 E1142 E119 E872 I252 Z9884 F1020 F1120 F319 F411 G43909 G629 H409 I2699 I4820 I4892
I5022 I5033 I5042 I639 I6523 I7300 I739 I951 J441 J690 J9600 J9611 K5090 K567 K5900 K7030 K7460 K7581 K8020 K8590 K922
L03115 M069 M1990 M549 M810 N132 N170 N184 N400 R000 R0602 R079 R1310 R296 R339 R4182 R509 R55 R569 R600 R627 R7301
R7881 S0990XA S7200XA T8130XA U071 Z20822 Z21 Z23 Z370 Z5111 Z6841 Z720 Z7952 Z7982 Z8546 Z85038 Z86010 Z86711 Z8701
Z87440 Z880 Z885 Z905 Z940 Z944 Z951 Z9049 Z9111 Z96651 O9989 O700 O34211 O480 C3490 C61 C50919 C7951 C7800 C787 C20
C189 C250 C220 B182 B9620 B20 A0472 A4151 A4101
"""

ICD9CM = """
4019 2724 53081 25000 42731 4280 41401 311 5849 5990 30000 2859 2449 3051 V5867 V1582 5859 40390 V4582 27800 496 4168
5180 486 V5861 49390 2760 2761 2762 2767 2768 2749 2720 2809 2851 2875 2880 28860 2948 30500 3310 32723 33829 33921
34690 34830 3569 36501 4240 4241 4254 42789 42732 42822 42823 42832 42833 4439 45829 4589 4160 41071 412 4111 41519
43310 43491 4471 48241 49121 49320 5070 5119 51881 51884 53550 55320 56210 56400 5601 5609 570 5712 5715 5722 5723
5728 5770 5781 5789 5845 5853 5854 5856 591 5920 5933 5939 600 60000 6110 65421 64891 6826 7070 70703 71590 7140 7242
7245 72887 7291 73300 7802 78039 78052 78060 78097 7812 78559 78551 7837 78701 7871 7840 78659 78820 78959 7907 7991
80700 82021 8730 9331 99592 99591 99662 99681 99811 99859 E8490 E8497 E8798 E8788 E8859 E8889 V0481 V08 V103 V1046
V1051 V1083 V1251 V1254 V1272 V1365 V1581 V173 V270 V3000 V3001 V420 V427 V4364 V4365 V4501 V4511 V4581 V4986 V5865
V5866 V5869 V5811 V667 V707 V850 V8541 0380 03842 0389 00845 04111 04112 04149 042 07054 07070 1122 1120 135 1508 1534
1561 1550 1570 1623 1629 1741 1749 185 1889 1977 1985 20280 20300 2113 21819
"""

ICD10PCS = """
02HV33Z 5A1221Z 3E0G76Z 4A023N7 B2111ZZ 0DJ08ZZ 5A1955Z 02100Z9 30233N1 0BH17EZ 5A1945Z 5A1D70Z 0W9G3ZZ 0W9G3ZX
0BJ08ZZ 0DJD8ZZ B548ZZA 3E04305 B211YZZ 07DR3ZX 0W9930Z 03VG3DZ 0B9D8ZX 5A1D60Z 3E0H76Z 02H633Z 10E0XZZ 10D00Z1
0HQ9XZZ 4A023N8 027034Z 021209W 06BQ4ZZ 5A09357 0JH63XZ 02HK3JZ 0QS604Z 0SRC0J9 0SRB02A 0SR9019 0FT44ZZ 0DTJ4ZZ
0DB68ZX 0DBN8ZX 0D9670Z 0T9B70Z 0TTB4ZZ 0VT08ZZ 0UT94ZZ 0HBT0ZZ 00JU3ZZ 009U3ZX 00C00ZZ 03CK0ZZ 30233R1 30243N1
3E03317 6A551Z3 XW033E5 8E0W4CZ F07Z9ZZ
"""

ICD9PROC = """
3893 9604 9671 9672 966 8856 3722 3961 3615 4513 9904 3995 3613 3891 8841 3897 4523 5491 9915 4573 8874 0331 0045 4311
4131 8847 9427 0221 3721 8604 3324 9925 0066 3607 3611 3612 3614 3772 3783 3794 3895 4103 4105 4233 4516 4525 4562
4576 5123 5187 5459 5569 5717 5732 5794 6849 7359 736 741 7569 7916 7935 8051 8108 8151 8154 8452 8607 8622 8872 9339
9390 9394 9607 9605 9920 9907
"""


# kind: (value, comment, parts of a hundred); "normal" first
WORDS = {
    "dip": (("NEG", "", 60), ("TR", "", 14), ("SM", "", 10), ("MOD", "", 9), ("LG", "", 7)),
    "smear": (("", "NORMAL.", 40), ("", "OCCASIONAL.", 25), ("", "1+.", 25), ("", "2+.", 8), ("", "3+.", 2)),
    "hold": (("", "HOLD.", 60), ("", "___", 40)),
    "screen": (("NEG", "NEG.", 88), ("POS", "POS.", 10), ("___", "___", 2)),
    "color": (("Yellow", "", 70), ("Straw", "", 22), ("Amber", "", 6), ("Red", "", 2)),
    "clear": (("Clear", "", 66), ("Hazy", "", 22), ("Cloudy", "", 12)),
    "count": (("NONE", "", 55), ("FEW", "", 25), ("RARE", "", 8), ("MOD", "", 8), ("MANY", "", 4)),
    "blood": (("ART.", "", 62), ("VEN.", "", 25), ("MIX.", "", 8), ("CENTRAL VENOUS.", "", 5)),
    "vent": (("CONTROLLED.", "", 55), ("INTUBATED.", "", 25), ("NOT INTUBATED.", "", 20)),
}
NEGATIVE = ("Base Excess",)  # the only items whose values may be below zero


def weighted(text: str) -> list[tuple[str, int]]:
    """Names and their parts of the whole, from "name|parts;name|parts"; spaces count."""
    return [(row.rpartition("|")[0], int(row.rpartition("|")[2])) for row in text.split(";")]


EVENT_TXT = weighted("""\
Administered|835;Not Given|56;Confirmed|24;Started|16;Assessed|11;Stopped|9;|8;Hold Dose|6;Delayed Administered|7;\
Administered Bolus from IV Drip|4;Applied|8;Removed|5;Infusion Reconciliation|3;Restarted|2; in Other Location|2;\
Not Applied|2;Partial Administered|1;Delayed |1""")
FLUSH_TXT = weighted("""\
Flushed|700;Not Flushed|290;Flushed in Other Location|10""")
ADMISSION_TYPE = weighted("""\
EW EMER.|328;EU OBSERVATION|218;OBSERVATION ADMIT|154;URGENT|102;SURGICAL SAME DAY ADMISSION|79;DIRECT OBSERVATION|45;\
DIRECT EMER.|39;ELECTIVE|24;AMBULATORY OBSERVATION|13""")
THROUGH_ED = (97, 99, 88, 8, 1, 10, 12, 1, 2)  # per cent of each admission type
ADMISSION_LOCATION = weighted("""\
PHYSICIAN REFERRAL|480;TRANSFER FROM HOSPITAL|220;WALK-IN/SELF REFERRAL|110;CLINIC REFERRAL|60;PROCEDURE SITE|48;\
PACU|32;TRANSFER FROM SKILLED NURSING FACILITY|26;INTERNAL TRANSFER TO OR FROM PSYCH|14;INFORMATION NOT AVAILABLE|2;\
AMBULATORY SURGERY TRANSFER|1""")
DISCHARGE_LOCATION = weighted("""\
HOME|360;HOME HEALTH CARE|180;SKILLED NURSING FACILITY|105;|272;REHAB|27;CHRONIC/LONG TERM ACUTE CARE|16;HOSPICE|10;\
AGAINST ADVICE|11;PSYCH FACILITY|8;ACUTE HOSPITAL|4;OTHER FACILITY|3;ASSISTED LIVING|1;HEALTHCARE FACILITY|1""")
INSURANCE = weighted("""\
Medicare|450;Private|320;Medicaid|190;Other|22;|15;No charge|3""")
LANGUAGE = weighted("""\
English|900;Spanish|33;Russian|15;Chinese|16;Kabuverdianu|10;Portuguese|7;Haitian|7;Other|6;|4;Vietnamese|2""")
MARITAL_STATUS = weighted("""\
MARRIED|440;SINGLE|380;WIDOWED|90;DIVORCED|65;|25""")
RACE = weighted("""\
WHITE|618;BLACK/AFRICAN AMERICAN|136;OTHER|36;UNKNOWN|27;HISPANIC/LATINO - PUERTO RICAN|18;WHITE - OTHER EUROPEAN|23;\
HISPANIC OR LATINO|15;ASIAN|14;ASIAN - CHINESE|14;WHITE - RUSSIAN|13;BLACK/CAPE VERDEAN|12;\
HISPANIC/LATINO - DOMINICAN|11;BLACK/CARIBBEAN ISLAND|8;BLACK/AFRICAN|7;UNABLE TO OBTAIN|4;\
PATIENT DECLINED TO ANSWER|5;PORTUGUESE|4;ASIAN - SOUTH EAST ASIAN|4;WHITE - EASTERN EUROPEAN|4;ASIAN - ASIAN INDIAN|4;\
WHITE - BRAZILIAN|3;HISPANIC/LATINO - GUATEMALAN|3;HISPANIC/LATINO - SALVADORAN|2;AMERICAN INDIAN/ALASKA NATIVE|2;\
SOUTH AMERICAN|1;HISPANIC/LATINO - CUBAN|1;ASIAN - KOREAN|1;MULTIPLE RACE/ETHNICITY|1;\
NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER|1""")
WARDS = weighted("""\
Medicine|250;Med/Surg|90;Medicine/Cardiology|70;Emergency Department Observation|100;Hematology/Oncology|45;\
Neurology|55;Transplant|50;Med/Surg/Trauma|40;PACU|35;Discharge Lounge|50;Med/Surg/GYN|38;Vascular|28;\
Cardiac Surgery|35;Psychiatry|22;Labor & Delivery|26;Obstetrics Postpartum|26;Surgery/Trauma|14;Observation|10;\
Hematology/Oncology Intermediate|12;Cardiology Surgery Intermediate|7;Neuro Intermediate|7;Neuro Stepdown|4;\
Medicine/Cardiology Intermediate|7;Unknown|2;Nursery|1""")
ICUS = weighted("""\
Medical Intensive Care Unit (MICU)|220;Cardiac Vascular Intensive Care Unit (CVICU)|165;\
Medical/Surgical Intensive Care Unit (MICU/SICU)|180;Surgical Intensive Care Unit (SICU)|150;Trauma SICU (TSICU)|120;\
Coronary Care Unit (CCU)|120;Neuro Intermediate|20;\
Neuro Surgical Intensive Care Unit (Neuro SICU)|20;Neuro Stepdown|5""")
SERVICES = weighted("""\
MED|340;CMED|110;SURG|85;OMED|65;NMED|65;ORTHO|60;NSURG|40;OBS|35;TRAUM|35;VSURG|28;CSURG|32;PSYCH|30;GYN|20;TSURG|16;\
GU|12;PSURG|8;ENT|6;EYE|1;DENT|1""")
# code and short description, with a space between them
HCPCS = weighted("""\
G0378 Hospital observation per hr|700;99218 Hospital observation services|40;99219 Hospital observation services|90;\
99220 Hospital observation services|40;C9600 Perc drug-el cor stent sing|12;93454 Cardiovascular|10;\
92921 Cardiovascular|5;43239 Digestive system|20;43264 Digestive system|8;44970 Digestive system|9;\
47562 Digestive system|12;19303 Integumentary system|8;27235 Musculoskeletal system|6;22551 Musculoskeletal system|7;\
60220 Endocrine system|5;64415 Nervous system|6;38500 Hemic and lymphatic systems|4;36830 Cardiovascular system|6;\
58571 Female genital system|7;52601 Urinary system|5""")
# Base names; each comes with complications in three grades (HCFA) or four severities (APR)
DRGS = """
SEPTICEMIA OR SEVERE SEPSIS W/O MV 96+ HOURS; HEART FAILURE & SHOCK; RENAL FAILURE; G.I. HEMORRHAGE
SIMPLE PNEUMONIA & PLEURISY; KIDNEY & URINARY TRACT INFECTIONS; CELLULITIS; ALCOHOL/DRUG ABUSE OR DEPENDENCE
ESOPHAGITIS, GASTROENT & MISC DIGEST DISORDERS; CARDIAC ARRHYTHMIA & CONDUCTION DISORDERS; CHEST PAIN; PSYCHOSES
MAJOR JOINT REPLACEMENT OR REATTACHMENT OF LOWER EXTREMITY; INTRACRANIAL HEMORRHAGE OR CEREBRAL INFARCTION
CHRONIC OBSTRUCTIVE PULMONARY DISEASE; CIRRHOSIS & ALCOHOLIC HEPATITIS; G.I. OBSTRUCTION; SEIZURES; SYNCOPE & COLLAPSE
MISC DISORDERS OF NUTRITION,METABOLISM,FLUIDS/ELECTROLYTES; VAGINAL DELIVERY; CESAREAN SECTION; CHEMOTHERAPY
PERC CARDIOVASC PROC W DRUG-ELUTING STENT; CORONARY BYPASS; CARDIAC VALVE PROCEDURES; SPINAL FUSION; CRANIOTOMY
MAJOR SMALL & LARGE BOWEL PROCEDURES; CHOLECYSTECTOMY; APPENDECTOMY; OTHER VASCULAR PROCEDURES; DIABETES; PANCREATITIS
RESPIRATORY INFECTIONS & INFLAMMATIONS; PULMONARY EMBOLISM; POISONING & TOXIC EFFECTS OF DRUGS; HIP & FEMUR PROCEDURES
RED BLOOD CELL DISORDERS; FEVER; HEADACHES; TRANSIENT ISCHEMIA; DISORDERS OF PANCREAS; LYMPHOMA & NON-ACUTE LEUKEMIA
"""
# strength, dose, unit, amount, form, route
PRODUCTS = """
5 mg Tablet|5|mg|1|TAB|PO/NG; 25 mg Tab|25|mg|1|TAB|PO/NG; 100 mg Capsule|100|mg|1|CAP|PO; 1 g Vial|1|g|1|VIAL|IV
325mg Tablet|325-650|mg|1-2|TAB|PO/NG; 2mg/mL-2mL|4|mg|1|VIAL|IV; 10mg/mL-1mL Syringe|5-10|mg|0.5-1|SYR|IV
5000 Units / mL- 1mL Vial|5000|UNIT|1|mL|SC; 20mEq Packet|40|mEq|2|PKT|PO; 500 mg Tablet|500|mg|1|TAB|PO
100 mL Bag|100|mL|100|mL|IV; 1000mL Bag|1000|mL|1000|mL|IV DRIP; 20g/30mL Cup|30|mL|1|UDCUP|PO/NG
2.5mg/3mL Neb|1|NEB|1|NEB|IH; 40 mg Vial|40|mg|1|VIAL|IV; 5% Patch|1|PTCH|1|PTCH|TD; 10mg Suppository|10|mg|1|SUPP|PR
2mg/mL-100mL|0.5-4|mg|0.25-2|mL|IV DRIP; 50 mg Capsule|50|mg|1|CAP|PO; 15g Tube|1|Appl|1|TUBE|TP
"""
# itemid label linksto category unit; then parts of the rows, median, spread (of the logarithm) and decimals
ICU_ITEMS = """
220045 Heart_Rate chartevents Routine_Vital_Signs bpm 70 86 .2 0
220210 Respiratory_Rate chartevents Respiratory insp/min 70 19 .28 0
220277 O2_saturation_pulseoxymetry chartevents Respiratory % 69 97 .03 0
220179 Non_Invasive_Blood_Pressure_systolic chartevents Routine_Vital_Signs mmHg 45 118 .18 0
220180 Non_Invasive_Blood_Pressure_diastolic chartevents Routine_Vital_Signs mmHg 45 63 .22 0
220181 Non_Invasive_Blood_Pressure_mean chartevents Routine_Vital_Signs mmHg 45 77 .2 0
220050 Arterial_Blood_Pressure_systolic chartevents Routine_Vital_Signs mmHg 25 117 .18 0
220051 Arterial_Blood_Pressure_diastolic chartevents Routine_Vital_Signs mmHg 25 58 .2 0
220052 Arterial_Blood_Pressure_mean chartevents Routine_Vital_Signs mmHg 25 77 .18 0
223761 Temperature_Fahrenheit chartevents Routine_Vital_Signs F 18 98.4 .012 1
220739 GCS_-_Eye_Opening chartevents Neurological - 17 3 .4 0
223900 GCS_-_Verbal_Response chartevents Neurological - 17 4 .5 0
223901 GCS_-_Motor_Response chartevents Neurological - 17 6 .3 0
223835 Inspired_O2_Fraction chartevents Respiratory - 9 50 .25 0
220339 PEEP_set chartevents Respiratory cmH2O 7 5 .35 0
224690 Respiratory_Rate_(Total) chartevents Respiratory insp/min 7 20 .28 0
224685 Tidal_Volume_(observed) chartevents Respiratory mL 7 450 .25 0
224687 Minute_Volume chartevents Respiratory L/min 7 9 .3 1
220074 Central_Venous_Pressure chartevents Hemodynamics mmHg 9 11 .45 0
226512 Admission_Weight_(Kg) chartevents General kg 1 79 .27 1
225664 Glucose_finger_stick_(range_70-100) chartevents Labs mg/dL 9 140 .33 0
220602 Chloride_(serum) chartevents Labs mEq/L 5 104 .06 0
220615 Creatinine_(serum) chartevents Labs mg/dL 5 1.1 .6 1
227442 Potassium_(serum) chartevents Labs mEq/L 5 4.1 .13 1
220645 Sodium_(serum) chartevents Labs mEq/L 5 139 .035 0
220546 WBC chartevents Labs K/uL 4 10.8 .5 1
225158 NaCl_0.9% inputevents Fluids/Intake ml 30 50 1.2 2
220949 Dextrose_5% inputevents Fluids/Intake ml 25 50 1.1 2
225943 Solution inputevents Fluids/Intake ml 15 50 1.1 2
221906 Norepinephrine inputevents Medications mg 9 .8 1.2 4
222168 Propofol inputevents Medications mg 9 200 1.1 2
221749 Phenylephrine inputevents Medications mg 6 4 1.1 3
221744 Fentanyl inputevents Medications mcg 9 50 .6 2
223258 Insulin_-_Regular inputevents Medications units 8 4 .8 1
226453 GT_Flush inputevents Fluids/Intake ml 6 30 .6 0
225828 LR inputevents Fluids/Intake ml 6 500 1 2
226559 Foley outputevents Output mL 70 80 .8 0
226560 Void outputevents Output mL 12 250 .6 0
226588 Chest_Tube_#1 outputevents Drains mL 8 40 .8 0
226599 Jackson_Pratt_#1 outputevents Drains mL 4 50 .9 0
226576 Nasogastric outputevents Output mL 4 100 .8 0
226582 Ostomy_(output) outputevents Output mL 2 150 .8 0
225459 Chest_X-Ray procedureevents Imaging - 20 1 0 0
224275 20_Gauge procedureevents Access_Lines min 20 1700 .9 0
224277 18_Gauge procedureevents Access_Lines min 15 1900 .9 0
225752 Arterial_Line procedureevents Access_Lines min 12 2300 .9 0
225792 Invasive_Ventilation procedureevents Ventilation min 12 1900 1.2 0
225402 EKG procedureevents Procedures - 12 1 0 0
224263 Multi_Lumen procedureevents Access_Lines min 8 4300 .8 0
"""
