"""How processes work as one, hear of each other's end, and end themselves."""
