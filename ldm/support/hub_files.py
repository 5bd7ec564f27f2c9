"""Files of repositories on the Hugging Face hub, through huggingface_hub; each failure is one line with its remedy.

Downloaded files are in the client's cache and need no network. The client resumes interrupted downloads.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.logging import set_verbosity_error

from ldm.errors import UserError, file_error
from ldm.support.files import sha256

SECONDS = 5.0
"""timeout of the hub; its client's default is a minute"""
FAILURES: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError, HFValidationError, JSONDecodeError)
"""exceptions of the client: those of its HTTP library, which differs between versions, its own, and for bad JSON"""
SHA256 = re.compile(r"[0-9a-f]{64}")


class UnreachableError(UserError):
    """The hub does not answer, or may not be asked: so of everything in it."""


class Repository(NamedTuple):
    """A model repository at one of its revisions: a branch, a tag or a commit; None is its main branch."""

    id: str
    """ORG/NAME"""
    revision: str | None = None

    @property
    def page(self) -> str:
        return f"{constants.ENDPOINT}/{self.id}"


def cached(repository: Repository, files: Sequence[str]) -> Path | None:
    """The first of `files` that is in the cache."""
    found = (try_to_load_from_cache(repository.id, file, revision=repository.revision) for file in files)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def list_files(repository: Repository, likely: Sequence[str], what: str, otherwise: str = "") -> list[str]:
    """Names of all files of a repository or, where the hub does not answer, those of `likely` that are in the cache.

    UserError (see `explained`) when the hub refuses, or does not answer and none of `likely` is in the cache.
    """
    with explained(what, repository, otherwise):
        try:
            info = HfApi().model_info(repository.id, revision=repository.revision, timeout=SECONDS)
            return [file.rfilename for file in info.siblings or []]
        except FAILURES as error:
            here = [file for file in likely if cached(repository, [file]) is not None]
            if not here or isinstance(error, RepositoryNotFoundError | RevisionNotFoundError | HFValidationError):
                raise
            return here


def fetch(repository: Repository, file: str, what: str, otherwise: str = "") -> Path:
    """Local path of `file` of a repository, downloaded if necessary and checked. UserError: see `explained`."""
    set_verbosity_error()  # our own message replaces the client's
    with explained(what, repository, otherwise):
        check_access(repository, [file])
        path = Path(hf_hub_download(repository.id, file, revision=repository.revision))
    blob = path.resolve()  # large files are stored under their sha256
    if SHA256.fullmatch(blob.name) and sha256(blob) != blob.name:
        raise UserError(
            f"{what}: {blob} is damaged: its sha256 is not the one that {repository.page} states; delete that file "
            "and run the same command again"
        )
    return path


def check_access(repository: Repository, files: Sequence[str]) -> None:
    """Check that the hub has one of `files`, unless one is in the cache. Raises the client's exceptions."""
    if cached(repository, files) is not None:
        return
    for file in files:
        try:
            get_hf_file_metadata(hf_hub_url(repository.id, file, revision=repository.revision), timeout=SECONDS)
            return
        except EntryNotFoundError:
            if file == files[-1]:
                raise


def push(folder: Path, repository: str, private: bool) -> str:
    """Upload a folder to ORG/NAME, created if missing; returns its page. UserError when refused."""
    what = f"push to {repository}"
    with explained(what, Repository(repository)):
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Add a ZoomLDM model")
    return Repository(repository).page


@contextmanager
def explained(what: str, repository: Repository, otherwise: str = "") -> Iterator[None]:
    """Turn the client's exceptions into one UserError: `what`, reason, remedy and, if given, an alternative."""
    try:
        yield
    except FAILURES as error:
        another = f", or {otherwise}" if otherwise else ""
        reason, told = _reason(error, repository), UserError
        if reason is None:
            reason, told = _unreachable(error, repository), UnreachableError
        raise told(f"{what}: {reason}{another}") from error


def _reason(error: Exception, repository: Repository) -> str | None:
    """What the hub, or this disk, answers about `repository`, and the remedy; None where there was no answer."""
    page = repository.page
    if isinstance(error, OSError) and not isinstance(error, HfHubHTTPError) and (told := file_error(error)):
        return told
    if isinstance(error, GatedRepoError):
        return f"{page} is gated; accept its licence there and run `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return f"{page} does not exist or is private; correct the name, or run `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return f"{page} has no revision {repository.revision}; name one of its branches, tags or commits"
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return f"{page} has no such file; see {page}/tree/{repository.revision or 'main'}"
    if isinstance(error, HFValidationError):
        return f"{repository.id} is no name of a repository; expected ORG/NAME"
    response = getattr(error, "response", None)
    if response is not None and response.status_code in (401, 403):
        return f"{page} answers {response.status_code}; run `hf auth login` with a token that may use it"
    return None


def _unreachable(error: Exception, repository: Repository) -> str:
    if constants.HF_HUB_OFFLINE and isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return f"{repository.page} is not in the cache {constants.HF_HUB_CACHE}; unset HF_HUB_OFFLINE to fetch it"
    cause = error.__cause__ or error if isinstance(error, LocalEntryNotFoundError) else error
    lines = str(cause).strip().splitlines()
    reason = f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
    return f"{constants.ENDPOINT} gives no whole answer ({reason}); check the network and run the same command again"
