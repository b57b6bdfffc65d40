"""The `timelines/` artifact: one patient a record, of a study's own patients and of others."""
