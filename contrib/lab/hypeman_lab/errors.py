"""What goes wrong in the lab itself, never in what is tested with it."""


class LabError(Exception):
    """The lab could not be built, did not boot, or refused what was asked of it."""
