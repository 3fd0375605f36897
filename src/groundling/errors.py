"""What groundling raises. Where the input was wrong it is also a `ValueError`, and the message says how to mend it."""

from __future__ import annotations


class GroundlingError(Exception):
    """Any error that groundling raises on purpose."""


class RecordError(GroundlingError, ValueError):
    """A line of a record file, or one of its targets, says something impossible."""


class ImageError(GroundlingError, ValueError):
    """A picture that cannot be read, or must not be (too large, a float picture, a damaged file)."""


class ImageSizeError(ImageError):
    """A picture of too many pixels, or too long for its width: its file may be sound."""


class FrameError(GroundlingError, ValueError):
    """Coordinates without a usable frame, or two frames where one was needed."""


class SettingsError(GroundlingError, ValueError):
    """A recipe, an option or a name that is not understood."""


class ContractError(GroundlingError, ValueError):
    """A checkpoint whose `groundling.json` and processor, or whose parts, disagree."""


class TrainingError(GroundlingError):
    """A training that cannot go on: the loss or a weight is no longer finite, or the weights would be lost."""


class ServerError(GroundlingError):
    """A server of models that cannot be reached, that refuses, or whose reply is none."""


PREEMPTED = 75  # the exit code of what was asked to stop and the same command goes on with: sysexits' EX_TEMPFAIL


class PreemptedError(GroundlingError):
    """A training that was asked to stop (SIGTERM), and has kept what it had: the same command goes on from there."""
