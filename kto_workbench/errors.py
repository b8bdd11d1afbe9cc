"""What can go wrong, said to the user in one sentence.

    WorkbenchError            any message meant for the user: what happened, where, what to do about it
    ├── ConfigError           an option is unknown, out of bounds, or does not go with another
    ├── DataError             a feedback file can't be read or holds nothing to train on
    ├── ModelError            a model or adapter can't be found or loaded
    └── RunError              a run directory is missing, busy, or not in the state that the command needs

The shell prints the sentence and exits with 2; the page shows it beside the field. Anything that is not a
WorkbenchError is a defect of ours and keeps its traceback.
"""


class WorkbenchError(Exception):
    """One sentence for the user: what happened, where, and what to do about it."""


class ConfigError(WorkbenchError):
    """An option is unknown, out of bounds, or does not go with another."""


class DataError(WorkbenchError):
    """A feedback file can't be read, or holds nothing to train on."""


class ModelError(WorkbenchError):
    """A model or an adapter can't be found or loaded."""


class RunError(WorkbenchError):
    """A run directory is missing, busy, or not in the state that the command needs."""
