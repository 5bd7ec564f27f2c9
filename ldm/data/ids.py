"""Slide ids: the path of a slide below its folder, without suffix, in characters that every file system supports.

Letters, marks and digits of any script (Unicode categories L, M, N), composed as NFC, and `.`, `_`, `-`; `/` between
parts, none of which starts with a dot. An id can only name files below a folder.
"""

import hashlib
import unicodedata

LONGEST = 180
"""largest length of a part in bytes, the rest becomes a digest: temporary names are longer, and file systems stop at
255"""


def safe_id(path: str) -> str:
    """`path`, with `/` between its parts, as an id; what an id cannot hold becomes `_`."""
    return "/".join(_part(part) for part in unicodedata.normalize("NFC", path).split("/"))


def is_safe_id(text: str) -> bool:
    """Whether `text` may name a file below a folder."""
    return bool(text) and all(part and _replaced(part) == part and _bytes(part) <= 255 for part in text.split("/"))


def _part(part: str) -> str:
    safe = _replaced(part)
    if _bytes(safe) <= LONGEST:
        return safe
    digest = hashlib.sha256(part.encode(errors="surrogateescape")).hexdigest()[:12]
    return f"{safe.encode()[:LONGEST].decode(errors='ignore')}-{digest}"


def _bytes(text: str) -> int:
    return len(text.encode(errors="surrogateescape"))


def _replaced(part: str) -> str:
    safe = "".join(letter if letter in "._-" or unicodedata.category(letter)[0] in "LMN" else "_" for letter in part)
    return f"_{safe[1:]}" if safe.startswith(".") else safe
