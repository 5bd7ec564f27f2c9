"""OpenSeadragon, the JavaScript library of the page (BSD licence): one pinned version, checked by its hash.

A wheel holds it from its build on (setup.py). A checkout fetches it with npm at first use, into the user's cache; after
that nothing needs a network. The npm client knows its registry; nothing here does.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

from ldm.errors import UserError

VERSION = "6.1.1"
INTEGRITY = "g4iKe2q8B642SaBT3+x4ZF3/8b1TxPPydyjmtrOLgDrlYWMKd9ZXM+1Cb/xa9DVySkvs/7l6HR1nHKfD5F3Tsw=="
"""sha512 of the package's archive, in base64, as npm states it"""
ARCHIVE = f"openseadragon-{VERSION}.tgz"
SCRIPT, LICENCE = "openseadragon.min.js", "openseadragon.LICENSE.txt"
MEMBERS = {SCRIPT: f"package/build/openseadragon/{SCRIPT}", LICENCE: "package/LICENSE.txt"}
"""files of ours -> members of the archive"""
PACKAGED = Path(__file__).parent / "page"
SECONDS = 60


def cache_folder() -> Path:
    """The user's cache of this project."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "zoomldm"


def library() -> dict[str, bytes]:
    """The script and its licence, by file name. UserError where it is not there and cannot be fetched."""
    if (PACKAGED / SCRIPT).is_file():
        return {name: (PACKAGED / name).read_bytes() for name in MEMBERS}
    archive = cache_folder() / ARCHIVE
    if not archive.is_file() or not _intact(archive):
        _fetch(archive)
    with tarfile.open(fileobj=BytesIO(archive.read_bytes())) as tar:
        found = {name: tar.extractfile(member) for name, member in MEMBERS.items()}
        return {name: file.read() for name, file in found.items() if file is not None}


def _intact(archive: Path) -> bool:
    return base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() == INTEGRITY


def _fetch(archive: Path) -> None:
    """Fetch the archive with npm. UserError without npm, without a network, and for another content."""
    by_hand = f"or put {ARCHIVE} (npm pack openseadragon@{VERSION}) into {archive.parent}"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"OpenSeadragon {VERSION}, which shows the images, is fetched once by npm, but there is no npm; install "
            f"Node.js, {by_hand}"
        )
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        command = [npm, "pack", f"openseadragon@{VERSION}", "--silent", "--ignore-scripts", "--fetch-retries=0"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
            why = " ".join(done.stderr.split())[:200] or f"status {done.returncode}"
        except (subprocess.TimeoutExpired, OSError) as error:
            why = " ".join(str(error).split())[:200]
        fetched = Path(folder) / ARCHIVE
        if not fetched.is_file():
            raise UserError(
                f"OpenSeadragon {VERSION} could not be fetched with npm ({why}); check the network, {by_hand}"
            )
        if not _intact(fetched):
            raise UserError(f"OpenSeadragon {VERSION} from npm is not the pinned one (sha512); check npm's registry")
        os.replace(fetched, archive)
