"""The error that every unreadable or unusable volume ends in."""


class VolumeError(ValueError):
    """A volume cannot be read, written or placed; the message is one sentence for the user.

    The sentence names the problem and what was expected. It never holds a path, a file name or text
    of the file's header, so that it can be shown and logged as it is.
    """
