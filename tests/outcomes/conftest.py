from tests.outcomes.admissions import admissions

__all__ = ["admissions"]
