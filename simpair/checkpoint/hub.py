"""A name → the local folder of a checkpoint; a local folder → a repository on the Hugging Face Hub.

A folder or the bundled name opens no socket. The network, its cache and its login are left to the Hub client.
"""

from __future__ import annotations

import glob
import logging
import re
from pathlib import Path
from typing import NamedTuple

from simpair.checkpoint.layout import MODULE_LISTS, Layout, read_layout
from simpair.errors import HubError, InputError, ModelCorrupt, ModelNotFound, OfflineMiss, SimpairError
from simpair.files.texts import one_line

__all__ = ["BUNDLED", "Resolved", "license_of", "push_folder", "resolve"]

BUNDLED = "simpair-mini"

_PRETRAINED = Path(__file__).parents[1] / "pretrained"
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*", re.ASCII)
_HUB_NAME = re.compile(
    rf"(?P<repo>(?!.*(\.\.|--))\w[\w.-]*(/\w[\w.-]*)?)(@(?P<revision>{_REVISION.pattern}))?", re.ASCII
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PAPERS = re.compile(r"README\.md|(LICENSE|NOTICE)[\w.-]*")
_LOG = logging.getLogger(__name__)


class Resolved(NamedTuple):
    """A checkpoint on this machine.

    Attributes:
        folder: The folder of its files.
        source: The name that finds it again: the bundled name, an absolute path, or ``org/name@commit``.
        layout: Its modules and files if it comes from the Hub, else None.
    """

    folder: Path
    source: str
    layout: Layout | None = None


def resolve(
    name_or_path: str | Path | None = None, *, revision: str | None = None, local_files_only: bool = False
) -> Resolved:
    """Return the local folder of a checkpoint: an existing folder, the bundled one, or a Hub repository's.

    A cached download is used without a request, but only if it is known to be complete. A branch or tag given as
    ``revision`` is looked up each time; the cached copy is used if the Hub does not answer.

    Args:
        name_or_path: A folder, ``"simpair-mini"`` (the default), or ``org/name`` with an optional ``@revision``.
        revision: A branch, tag or commit of a Hub repository.
        local_files_only: Never use the network.

    Raises:
        InputError: The revision is invalid, given twice, or given for something that has none.
        ModelError: Nothing has that name, or what has it cannot be used; the subclass says why.
        HubError: The Hub refused or failed.
    """
    name = BUNDLED if name_or_path is None else name_or_path
    local = _local_folder(name)
    if local is not None:
        if revision is not None:
            raise InputError(f"revision is {revision!r}, but {str(name)!r} is not on the Hub: leave it out")
        return local
    match = _HUB_NAME.fullmatch(str(name))
    nothing = f"{str(name)[:100]!r} is neither an existing folder nor {BUNDLED!r} nor a Hub name like 'org/name'"
    if match is None:
        raise ModelNotFound(nothing)
    repo_id, recorded = match["repo"], match["revision"]
    if revision is not None and recorded not in (None, revision):
        raise InputError(f"two revisions were given, {recorded!r} and {revision!r}: keep one")
    if revision is not None and not _REVISION.fullmatch(revision):
        raise InputError(f"revision {revision!r} cannot be a branch, tag or commit of {repo_id}")
    from huggingface_hub.errors import HFValidationError

    try:
        return _from_hub(repo_id, revision or recorded, local_files_only=local_files_only)
    except HFValidationError as error:
        raise ModelNotFound(nothing) from error


def license_of(source: str, *, local_files_only: bool = False) -> str | None:
    """Return the license that the card of a checkpoint names; None if there is no card or it cannot be fetched.

    For the bundled checkpoint, return the path of the notice with the terms of its data.

    Args:
        source: The ``source`` of a resolved checkpoint.
        local_files_only: Never use the network.
    """
    if source == BUNDLED:
        return f"terms of its data: {_PRETRAINED / 'NOTICE.md'}"
    from huggingface_hub import hf_hub_download, metadata_load, repocard

    card, (repo_id, _, commit) = Path(source) / "README.md", source.rpartition("@")
    try:
        if not card.is_file() and _COMMIT.fullmatch(commit):
            card = Path(hf_hub_download(repo_id, "README.md", revision=commit, local_files_only=local_files_only))
        known = metadata_load(card) or {}
    except (*_failures(), repocard.yaml.YAMLError):  # type: ignore[attr-defined]  # exported by the client only
        return None
    named = [known.get(key) for key in ("license_name", "license", "license_link")]
    return " ".join(str(part) for part in named if part and part != "other")[:200] or None


def push_folder(
    folder: Path, repo_id: str, *, private: bool = False, commit_message: str = "Upload with simpair"
) -> str:
    """Put a checkpoint and its card into a Hub repository in one commit, and return the commit's address.

    Only a checkpoint's files are uploaded, with README.md, LICENSE and NOTICE: never an optimizer, a log or a pickle.

    Args:
        folder: A saved checkpoint with its card, ``README.md``.
        repo_id: ``org/name``; created if it does not exist.
        private: Make a new repository private (default: the account's own default).
        commit_message: The commit's title.

    Raises:
        InputError: The folder has no card, or a link to a file elsewhere.
        ModelError: It has no weights in the safetensors format, or modules that are not read.
        HubError: The Hub refused or failed.
    """
    names = _files_to_push(folder)
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    try:
        repo_id = api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
        files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names]
        commit = api.create_commit(repo_id, files, commit_message=commit_message)
    except _failures() as error:
        raise HubError(f"{repo_id} was not pushed: {_reason(_root(error))}") from error
    return str(commit.commit_url)


def _files_to_push(folder: Path) -> list[str]:
    """Return the names of the files of a folder that are uploaded."""
    if not (folder / "README.md").is_file():
        raise InputError(f"{folder} has no README.md: write the model card first, it is uploaded with the weights")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    chosen = [*read_layout(folder, names).files, *(name for name in names if _PAPERS.fullmatch(name))]
    for name in chosen:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{folder / name} links to a file elsewhere: save the checkpoint anew and push that")
    return chosen


def _local_folder(name: str | Path) -> Resolved | None:
    """Return the existing folder or the bundled checkpoint that a name stands for; None if it may be a Hub name."""
    path = Path(name)
    try:
        is_folder, is_file = str(name) != "" and path.is_dir(), path.is_file()
    except OSError:  # too long for a path, or below a folder that may not be read
        is_folder = is_file = False
    if is_file:
        raise ModelNotFound(f"{path} is a file: give the folder that holds the checkpoint")
    if is_folder:
        if not any((path / entry).is_file() for entry in ("config.json", "modules.json")):
            raise ModelNotFound(f"the folder {path.absolute()} holds no checkpoint: no config.json, no modules.json")
        return Resolved(path.absolute(), str(path.absolute()))
    if isinstance(name, Path):
        raise ModelNotFound(f"there is no folder {str(path)!r}")
    if name != BUNDLED:
        return None
    if not (_PRETRAINED / BUNDLED).is_dir():
        raise ModelNotFound(f"this installation lacks its checkpoint {_PRETRAINED / BUNDLED}: install simpair again")
    return Resolved(_PRETRAINED / BUNDLED, BUNDLED)


def _from_hub(repo_id: str, revision: str | None, *, local_files_only: bool) -> Resolved:
    """Return the cached snapshot of one commit, downloaded first if needed; its folder has the commit's name."""
    cached = _cached(repo_id, revision)
    if cached is not None and (local_files_only or revision is None or _COMMIT.fullmatch(revision)):
        return cached
    try:
        if local_files_only:
            raise OfflineMiss(_miss(repo_id, revision, "local_files_only rules the network out"))
        try:
            return _download(repo_id, revision)
        except _failures() as error:
            raise _download_error(_root(error), repo_id, revision) from error
    except (OfflineMiss, HubError) as error:
        fallback = cached or _cached(repo_id, revision, offline=True)
        if fallback is None:
            raise
        if not local_files_only:
            _LOG.warning("using the cached commit %s of %s: %s", fallback.folder.name, repo_id, error)
        return fallback


def _cached(repo_id: str, revision: str | None, *, offline: bool = False) -> Resolved | None:
    """Return the cached snapshot if it is known to be complete, without any request.

    Other libraries leave parts of a checkpoint in the same cache (the weights without the pooling), so the files of a
    complete one are taken from the list of the commit's files that the Hub client keeps. ``offline`` also accepts a
    snapshot that lacks only the checksums, and one without that list if it has all files that its modules need.
    """
    from huggingface_hub import _CACHED_NO_EXIST, get_cached_repo_tree, try_to_load_from_cache
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    found = [try_to_load_from_cache(repo_id, name, revision=revision) for name in ("modules.json", "config.json")]
    folder = next((Path(path).parent for path in found if isinstance(path, str)), None)
    if folder is None:
        return None
    try:
        sizes = {file.path: file.size for file in get_cached_repo_tree(repo_id, revision=folder.name)}
    except CachedRepoTreeNotFoundError:
        if not offline or not (isinstance(found[0], str) or found[0] is _CACHED_NO_EXIST):
            return None
        layout = read_layout(folder, where=repo_id)
        return Resolved(folder, f"{repo_id}@{folder.name}", layout) if layout.is_complete else None
    if not all((folder / name).is_file() for name in filter(MODULE_LISTS.fullmatch, sizes)):
        return None
    layout = read_layout(folder, sizes, where=repo_id)
    for name in layout.files:
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size is None and not (offline and name == "simpair.json"):
            return None
        if size not in (None, sizes[name]):
            advice = f"delete {folder.parent.parent} and load again"
            raise ModelCorrupt(f"{folder / name} has {size} bytes, on the Hub it has {sizes[name]}: {advice}")
    return Resolved(folder, f"{repo_id}@{folder.name}", layout)


def _download(repo_id: str, revision: str | None) -> Resolved:
    """Return the snapshot of the commit that a revision names now, with all files that it needs."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

    # Asked first: a refused download would be answered from the cache.
    info = HfApi().model_info(repo_id, revision=revision, timeout=HF_HUB_ETAG_TIMEOUT)
    names = [file.rfilename for file in info.siblings or []]
    lists = [Path(hf_hub_download(repo_id, name, revision=info.sha)) for name in filter(MODULE_LISTS.fullmatch, names)]
    root = next((path.parent for path in lists if path.name == "modules.json"), Path())
    layout = read_layout(root, names, where=repo_id)
    exact = [glob.escape(name) for name in layout.files]
    folder = Path(snapshot_download(repo_id, revision=info.sha, allow_patterns=exact))
    missing = [name for name in layout.files if not (folder / name).is_file()]
    if missing:  # the client returns what it has if the Hub stops answering
        raise HubError(f"{repo_id}: the Hub did not give {missing[0]}: try again later")
    if revision != info.sha:  # last, so that the cache's branch moves to a complete commit only
        hf_hub_download(repo_id, layout.files[0], revision=revision)
    return Resolved(folder, f"{repo_id}@{folder.name}", layout)


def _failures() -> tuple[type[Exception], ...]:
    """Return what the Hub client raises: HTTP, file and upload errors, and ValueErrors for an invalid answer."""
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # its documented export, made lazily

    return httpx.HTTPError, OSError, RuntimeError, ValueError


def _root(error: Exception) -> Exception:
    """Return the error that the Hub client wrapped in "could not upload" or "not in the cache", or the error itself."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    cause = error.__cause__ if isinstance(error, (RuntimeError, LocalEntryNotFoundError)) else None
    return cause if isinstance(cause, Exception) else error


def _download_error(error: Exception, repo_id: str, revision: str | None) -> SimpairError:
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFound(f"{repo_id} has no branch, tag or commit {revision!r}")
    missing = isinstance(error, errors.HfHubHTTPError) and error.response.status_code == 404
    if missing or (isinstance(error, errors.RepositoryNotFoundError) and not isinstance(error, errors.GatedRepoError)):
        private = "if it is a private repository, log in with `hf auth login`"
        return ModelNotFound(f"no folder, bundled model or Hub repository is named {repo_id!r}; {private}")
    if isinstance(error, (httpx.TransportError, errors.OfflineModeIsEnabled)):
        return OfflineMiss(_miss(repo_id, revision, _reason(error)))
    return HubError(f"{repo_id}: {_reason(error)}")


def _miss(repo_id: str, revision: str | None, why: str) -> str:
    call = repr(repo_id) if revision is None else f"{repo_id!r}, revision={revision!r}"
    return (
        f"{repo_id!r} is no folder here, its cached copy from the Hub is missing or incomplete, and {why}: check the "
        f"name, or run TwinTowerEncoder.from_pretrained({call}) once online"
    )


def _reason(error: Exception) -> str:
    """Return in one line what went wrong at the Hub and what to do."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    detail = f"{type(error).__name__}: {one_line(error)}"
    if isinstance(error, errors.GatedRepoError):
        return "access is granted by its owner: ask on its page, then log in with `hf auth login`"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return f"the Hub refused access ({status}): log in with `hf auth login` and a token that may do this"
        return f"the Hub answered {status}, try again later ({detail})"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE rules the network out"
    if isinstance(error, httpx.TransportError):
        return f"the Hub could not be reached ({detail})"
    if "xet" in detail.lower():
        return f"the transfer with Xet failed, set HF_HUB_DISABLE_XET=1 to go without it ({detail})"
    return detail
