"""What launch.bench measures, a module a part, and what these measure with."""

COMMANDS = __name__.rpartition(".")[
    0
]  # the package of the commands: launch, or ehr_scaling.launch where it is installed
