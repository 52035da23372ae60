"""The one error that a user sees."""


class CryorestoreError(Exception):
    """Something the user can mend: the message names the file, the row, what was found, what was expected and the mend."""
