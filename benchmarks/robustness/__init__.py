"""Robustness scenarios: each module repeatedly injects one kind of fault and counts the outcomes.

The same scenario is a test at a small count and a row of benchmarks/robustness.md at the full one. A module offers

    def measure(folder: Path, count: int) -> str

which works inside `folder` (it exists and is empty), does `count` trials and returns the result as text for the table:
"44 of 44", "0 silent of 300: 281 refused, 19 harmless". A failed trial is counted in that text, not raised. It prints
its progress; it neither reads nor writes anything outside `folder`.

    R1  odd_slides   R2  kills           R3  resume   R4   disk            R5   flips   R6   hostile
    R7  invariance   R8  two_processes   R9  leaks    R10  command_lines   R11  edits   R13  stale

tests/robustness/test_*.py call them with small counts and check the results.
"""
