"""How a number is written, in every rendered form alike: with four digits."""

from __future__ import annotations


def show(value: float, *, sign: bool = False) -> str:
    """0.8312 -> "0.8312", 123456.0 -> "1.235e+05", 2.0 -> "2"; with sign "+2"; never "-0".

    >>> show(-0.0), show(2.0, sign=True), show(0.123456)
    ('0', '+2', '0.1235')
    """
    value = float(value)
    if value == 0:
        return "0"
    return f"{value:+.4g}" if sign else f"{value:.4g}"
