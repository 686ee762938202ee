"""The error raised for every unreadable or unusable volume, and how a lack of memory is recognised."""


class VolumeError(ValueError):
    """A volume cannot be read, written or placed; the message is one sentence for the user.

    The sentence names the problem and what was expected. It never holds a path, a file name or text
    of the file's header, so that it can be shown and logged as it is.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, of the machine or of an accelerator; torch has three ways to say it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported for its name
        or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
    )
