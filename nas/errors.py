"""The error tree. A message is one line: what was wrong, what was expected, what to do."""


class NasError(Exception):
    """Anything this project raises on purpose."""


class InputError(NasError, ValueError):
    """An argument, file or option the caller can mend; the command line exits with 2."""


class SpaceError(InputError):
    """A search space, a genotype or an architecture that does not fit one."""


class ArchError(InputError):
    """An architecture that describes no network."""


class BudgetError(InputError):
    """A budget that cannot be read or cannot hold."""


class DataError(InputError):
    """A data set that cannot be read as one."""


class TargetError(InputError):
    """A device target that is unknown or not available here."""


class RunError(InputError):
    """A run directory, table, checkpoint or predictor that is missing, foreign or damaged."""


class MeasureError(NasError):
    """A measurement that failed or stayed disturbed."""


class TrainError(NasError):
    """Training that cannot go on, such as a loss that is not finite."""


class SearchError(NasError):
    """A search that ended without an architecture that can be promised."""


class ExportError(NasError):
    """A network that could not be exported, or an export that does not agree with it."""


def first_line(error: BaseException) -> str:
    """What an exception of somebody else's says, in one line; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


def last_line(text: str) -> str:
    """What a process said last before it ended."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing; perhaps it was killed for memory"
