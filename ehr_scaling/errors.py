"""The one exception that users meet."""


class UserError(Exception):
    """Something the user can mend.

    The message is one line that names the file, the row or the flag, and what to do about it. It never holds a
    subject id, a patient's date or free text. `launch/` prints it without a traceback and exits with status 1.
    """
