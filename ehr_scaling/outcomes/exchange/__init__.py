"""What is handed on, in the schemas of MEDS."""
