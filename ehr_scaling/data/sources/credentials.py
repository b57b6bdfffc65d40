"""A user's name and password for a server: where they are found, and to whom they may be shown."""

import getpass
import netrc
import os
import sys
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from requests.auth import HTTPBasicAuth

from ehr_scaling.errors import UserError

USERNAME, PASSWORD = "PHYSIONET_USERNAME", "PHYSIONET_PASSWORD"
_OWN_MACHINE = ("localhost", "127.0.0.1", "::1")


class Credentials(HTTPBasicAuth):
    """For `requests`; neither its repr nor its pickle tells them."""

    def __repr__(self) -> str:
        return "Credentials(…)"

    def __reduce__(self) -> str:
        raise TypeError("credentials are not written to a file")


def find(url: str) -> Credentials | None:
    """Credentials for the server of `url`.

    From the environment (PHYSIONET_USERNAME, PHYSIONET_PASSWORD), else the host's entry in $NETRC or ~/.netrc, else
    asked for where there is a terminal. None where there are none.
    Raises: UserError for a netrc file that cannot be read, and for a server to which they would go in the clear.
    """
    server = urlsplit(url)
    name, word = os.environ.get(USERNAME, ""), os.environ.get(PASSWORD, "")
    if not (name and word):
        if (entry := _netrc(server.hostname or "")) and name in ("", entry[0]):
            name, word = entry
        elif sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty() and may_be_shown(server):
            try:
                name = name or input(f"User name at {server.hostname}: ").strip()
                word = getpass.getpass(f"Password of {name} at {server.hostname}: ") if name else ""
            except EOFError:
                return None
    if not (name and word):
        return None
    if not may_be_shown(server):
        raise UserError(f"{server.hostname} wants credentials, which are not sent over http: give its https address")
    return Credentials(name.encode(), word.encode())  # bytes: requests would read a str as Latin-1


def may_be_shown(server: SplitResult) -> bool:
    return server.scheme == "https" or server.hostname in _OWN_MACHINE


def _netrc(host: str) -> tuple[str, str] | None:
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    if not path.is_file():
        return None
    try:
        entry = netrc.netrc(str(path)).hosts.get(host)  # not its `default`, which is for whoever asks
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError):  # their text quotes the file
        raise UserError(f"{path} is no netrc file: mend it, or set {USERNAME} and {PASSWORD}") from None
    return (entry[0], entry[2]) if entry and entry[0] and entry[2] else None
