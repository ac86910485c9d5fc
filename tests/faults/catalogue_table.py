"""The catalogue as docs/faults.md has it: a Markdown table made from the faults themselves.

`python -m tests.faults.catalogue_table` rewrites it between the two marks in the file.
"""

from __future__ import annotations

from pathlib import Path

from faults import FaultInfo, ParameterInfo, catalogue

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"
BEGIN = "<!-- the table is made by `python -m tests.faults.catalogue_table` -->\n"
END = "<!-- end of the table -->\n"
_OWN = "/faults/catalogue/"


def table() -> str:
    """A row for each fault that comes with the fault layer; plugins are left out."""
    rows = [_row(fault) for fault in catalogue() if _OWN in fault.origin]
    return "\n".join(["| fault | what happens | parameters | triggers |", "|---|---|---|---|", *rows, ""])


def _row(fault: FaultInfo) -> str:
    parameters = "<br>".join(_parameter(parameter) for parameter in fault.params) or "none"
    return f"| `{fault.name}` | {_cell(fault.summary)} | {parameters} | {'yes' if fault.triggers else 'no'} |"


def _parameter(parameter: ParameterInfo) -> str:
    if parameter.required:
        value = "…"
    elif parameter.type == "choice":
        rest = [choice for choice in parameter.choices if choice != parameter.default]
        value = "\\|".join([parameter.default, *rest])
    else:
        value = str(parameter.default)
    return f"`{parameter.name}={value}` {_cell(parameter.help)}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def parts(document: str) -> tuple[str, str, str]:
    """What is before the table, the table, and what is after it. Raises ValueError when a mark is missing."""
    before, begin, rest = document.partition(BEGIN)
    found, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{DOCUMENT} lacks one of the marks around the table")
    return before + begin, found, end + after


def main() -> None:
    """Write the table."""
    before, _, after = parts(DOCUMENT.read_text())
    DOCUMENT.write_text(before + table() + after)


if __name__ == "__main__":
    main()
