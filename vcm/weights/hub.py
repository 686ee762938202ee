"""Files from the Hugging Face hub: fetched once, checked against what the hub promised, every failure one sentence."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vcm.weights.checkpoint import CheckpointError, file_hash, refuse_impostors

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository; `sha256` is its sum where it is known beforehand, None to trust the first download."""

    path: str
    sha256: str | None = None


@dataclass(frozen=True)
class HubSource:
    """Files of one repository at one revision: a branch, a tag, or better the 40 digits of a commit."""

    repository: str
    revision: str
    files: tuple[HubFile, ...]


@dataclass(frozen=True)
class FetchedFile:
    """A file in the hub's local cache, the SHA-256 sum of its bytes, and the commit that it is of."""

    path: Path
    sha256: str
    commit: str


def is_repository(text: str) -> bool:
    """Whether a text has the form of a repository's name, OWNER/NAME."""
    return _REPOSITORY.fullmatch(text) is not None


def fetch(source: HubSource) -> list[FetchedFile]:
    """Return the files of a source from the hub's cache, after downloading those that are missing.

    All files are of one commit, even where the revision is a branch that moves meanwhile. A connection that is cut is
    taken up where it broke; with HF_HUB_OFFLINE=1 only the cache is asked. For a large file the hub promises a SHA-256
    sum, and the bytes are compared with it here. A file that is not what it should be is removed from the cache, so
    that the next try starts afresh.

    Raises:
        CheckpointError: a file is not there, cannot be reached, or is not what was promised.
    """
    revision = source.revision
    fetched = []
    for file in source.files:
        path = _download(source.repository, file.path, revision)
        try:
            fetched.append(_check(path, file))
        except CheckpointError:
            discard(path)
            raise
        revision = fetched[0].commit
    return fetched


def discard(path: Path) -> None:
    """Remove a file from the hub's cache, the bytes as well as the link to them."""
    for each in {path.resolve(), _linked(path), path}:
        with suppress(OSError):
            each.unlink()


def _download(repository: str, name: str, revision: str) -> Path:
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    short = Path(name).name
    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except hub.GatedRepoError:
        reason = "its owner lets in only those who ask: accept its terms on the hub and log in with hf auth login"
    except hub.RepositoryNotFoundError:
        reason = "the hub has no such repository, or you may not see it"
    except hub.RevisionNotFoundError:
        reason = "the repository has no such revision"
    except (hub.OfflineModeIsEnabled, hub.LocalEntryNotFoundError):
        reason = "it is not in the cache and the hub cannot be reached, or HF_HUB_OFFLINE forbids it"
    except hub.EntryNotFoundError:
        reason = "the repository has no such file"
    except hub.HfHubHTTPError as error:
        reason = f"the hub answered with the status {error.response.status_code}"
    except hub.HFValidationError:
        reason = "its name is no name of a repository on the hub"
    except (hub.HTTPError, hub.XetDownloadError, RuntimeError):  # the last is how its transfer library fails
        reason = "the connection broke, so try again"
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else "what arrived is not as long as it should be"
    raise CheckpointError(f"{short} could not be fetched from the hub: {reason}.")


def _check(path: Path, file: HubFile) -> FetchedFile:
    refuse_impostors(path)
    found = file_hash(path)
    promised = _linked(path).name  # the hub's cache names the bytes by what the hub said of them
    for expected in (file.sha256, promised if _SHA256.fullmatch(promised) else None):
        if expected is not None and found != expected:
            raise CheckpointError(f"{path.name} was not accepted: its SHA-256 sum is not the promised one.")
    return FetchedFile(path, found, _commit(path, file.path))


def _linked(path: Path) -> Path:
    """Return what a link of the cache points to; only its first step, for the bytes may lie in a shared store."""
    return path.parent / os.readlink(path) if path.is_symlink() else path


def _commit(path: Path, name: str) -> str:
    """Return the commit of a cached file, which lies at snapshots/COMMIT/NAME."""
    return path.parts[-1 - len(Path(name).parts)]
