"""Cells of CSV files that people open in spreadsheets."""

FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


def safe(value: object) -> object:
    """A cell that no spreadsheet takes for a formula; numbers are left alone."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value
