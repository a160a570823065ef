"""What can be wrong with data on disk; both say where was looked and what to do."""


class MissingDataError(FileNotFoundError):
    """The data set is not in the folder searched; the message has the command that fetches it."""


class DamagedDataError(OSError):
    """The data set cannot be read in full; the message names the folder and the files."""
