"""Turn records into packed training data: records → events/ → timelines/ → packed/t<T>/.

  python -m launch.prepare --data=/path/to/mimic-iv --workdir=W

What is there already is kept; a work directory made from other records is refused.
"""

import json

from ehr_scaling import study
from launch import common

common.define_config_flags()


def main() -> None:
    config, _, workdir = common.read_flags()
    print(json.dumps(study.prepare(config, workdir)["summary"], indent=1))


if __name__ == "__main__":
    common.run(main)
