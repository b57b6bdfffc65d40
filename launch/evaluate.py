"""Score the finished runs of a study by simulating futures: timelines/ and runs/ → outcomes/<task>/.

  python -m launch.evaluate --config=configs/quickstart.py --workdir=W

Models that are scored already are skipped.
"""

from ehr_scaling import study
from launch import common

common.define_config_flags()


def main() -> None:
    config, _, workdir = common.read_flags()
    print(study.score(config, workdir))


if __name__ == "__main__":
    common.run(main)
