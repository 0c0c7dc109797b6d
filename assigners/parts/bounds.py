"""Options within their range: a fault names the option, its value and what is allowed."""


def at_least(least: float, **options: float | None) -> None:
    """Refuse options below `least`; None stands for a default that is none.

    Raises:
        ValueError: for the first of them.
    """
    for name, value in options.items():
        if value is not None and not value >= least:
            raise ValueError(f"{name} is {value}; it must be >= {least}")


def above_zero(**options: float) -> None:
    """Refuse options of 0 or less.

    Raises:
        ValueError: for the first of them.
    """
    for name, value in options.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be > 0")
