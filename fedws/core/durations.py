"""Formatting of durations."""


def format_duration(seconds: float) -> str:
    """Return a readable text for a duration in seconds, rounded up to whole seconds or minutes.

    >>> format_duration(42), format_duration(61), format_duration(3600), format_duration(12000)
    ('42 s', '2 min', '1 h', '3 h 20 min')
    """
    whole = -int(-seconds // 1)
    if whole <= 60:
        return f"{whole} s"
    minutes = -(-whole // 60)
    hours, rest = divmod(minutes, 60)
    return " ".join(filter(None, [f"{hours} h" if hours else "", f"{rest} min" if rest else ""]))
