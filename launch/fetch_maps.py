"""Download the public code maps, for --code_maps: ICD-9 to ICD-10 (CM and PCS) and the titles of ICD-10-CM.

  python -m launch.fetch_maps --dest=maps

They come from the Centers for Medicare & Medicaid Services. What is written is verified; what is there already and
right is not fetched again. Tables of drugs to ATC codes have licences of their own: put yours (columns drug, atc_code)
into the same folder.
"""

from pathlib import Path

from absl import flags

from ehr_scaling.data.codes import download

from .common import common

DEST = flags.DEFINE_string("dest", None, "Folder for the maps.", required=True)
KINDS = flags.DEFINE_list("kinds", list(download.PUBLIC), "Which of them.")
URL = flags.DEFINE_string("base_url", download.BASE_URL, "Of a mirror.")


def main() -> None:
    folder = Path(DEST.value)
    print(f"fetching code maps into {folder}", flush=True)
    download.download(folder, KINDS.value, base_url=URL.value)
    print(f"give them to launch.prepare with --code_maps={folder}")


if __name__ == "__main__":
    common.run(main)
