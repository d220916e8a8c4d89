"""Name → local folder of a checkpoint; local folder → repository on the Hugging Face Hub.

Knows which files a checkpoint has, not what is in them. A folder or the bundled name opens no socket; the network, its
cache and its login are the Hub client's work.
"""

from __future__ import annotations

import glob
import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from simpair.errors import (
    HubError,
    InputError,
    ModelCorrupt,
    ModelNotFound,
    OfflineMiss,
    SimpairError,
    UnsafeModel,
    UnsupportedModel,
)

__all__ = ["BUNDLED", "Resolved", "push_folder", "resolve"]

BUNDLED = "simpair-mini"

_PRETRAINED = Path(__file__).parent / "pretrained"
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*", re.ASCII)
_HUB_NAME = re.compile(
    rf"(?P<repo>(?!.*(\.\.|--))\w[\w.-]*(/\w[\w.-]*)?)(@(?P<revision>{_REVISION.pattern}))?", re.ASCII
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILES = re.compile(
    r"modules\.json|router_config\.json|config(_sentence_transformers)?\.json|sentence_[a-z-]+_config\.json"
    r"|tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(txt|json)|merges\.txt|simpair\.json"
    r"|chat_template\.jinja|adapter_config\.json"  # which a folder is refused for
)
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_PICKLED = re.compile(r"pytorch_model.*\.bin(\.index\.json)?")
_PAPERS = re.compile(r"README\.md|(LICENSE|NOTICE)[\w.-]*")

_LOG = logging.getLogger(__name__)


class Resolved(NamedTuple):
    """A checkpoint on this machine.

    Attributes:
        folder: Where its files are.
        source: What finds the same checkpoint again: the bundled name, an absolute path, or ``org/name@commit``.
    """

    folder: Path
    source: str


class _Module(NamedTuple):
    kind: str
    path: str


_PLAIN = [_Module("Transformer", "")]


def resolve(
    name_or_path: str | Path | None = None, *, revision: str | None = None, local_files_only: bool = False
) -> Resolved:
    """The local folder of a checkpoint: an existing folder, the bundled one, or a Hub repository's, in this order.

    A cached download is used without asking the Hub, and only when it is known to be complete. A branch or tag given as
    ``revision`` is looked up each time; the cached copy answers when the Hub cannot.

    Args:
        name_or_path: A folder, ``"simpair-mini"`` (meant by None too), or ``org/name`` with an optional ``@revision``.
        revision: A branch, tag or commit of a Hub repository.
        local_files_only: Never use the network.

    Raises:
        InputError: A revision that cannot be one, or for something that has none, or two of them.
        ModelNotFound: Nothing has that name.
        OfflineMiss: The cache has no complete copy, and the network was ruled out or is down.
        HubError: The Hub refused or failed.
        ModelCorrupt: A cached file or the list of modules is damaged.
        UnsafeModel: There are only pickled weights, or a module lies outside the checkpoint.
        UnsupportedModel: There are no weights in the safetensors format.
    """
    name = BUNDLED if name_or_path is None else name_or_path
    local = _local_folder(name)
    if local is not None:
        if revision is not None:
            raise InputError(
                f"revision {revision!r} was given with {str(name)!r}, which is not on the Hub: leave it out"
            )
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
        folder = _from_hub(repo_id, revision or recorded, local_files_only=local_files_only)
    except HFValidationError as error:
        raise ModelNotFound(nothing) from error
    return Resolved(folder, f"{repo_id}@{folder.name}")


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    commit_message: str = "Upload with simpair",
) -> str:
    """The address of the one commit that puts a checkpoint and its card into a Hub repository.

    Only a checkpoint's files go up, with README.md, LICENSE and NOTICE: never an optimizer, a log or a pickle. The
    login is the Hub client's (``hf auth login`` or ``HF_TOKEN``).

    Args:
        folder: A saved checkpoint with its card, ``README.md``.
        repo_id: ``org/name``; made if it does not exist.
        private: Make a new repository private; otherwise the account's own default holds.
        revision: The branch to commit to, made if it does not exist; None is the main branch.
        commit_message: The commit's title.

    Raises:
        InputError: The folder has no card, or links to a file elsewhere.
        ModelError: It holds no weights in the safetensors format, or a list of modules that cannot be followed.
        HubError: The Hub refused or failed.
    """
    names = _names_to_push(folder)
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    try:
        repo_id = api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names],
            commit_message=commit_message,
            revision=revision,
        )
    except _failures() as error:
        raise HubError(f"{repo_id} was not pushed: {_reason(_root(error))}") from error
    return str(commit.commit_url)


def _local_folder(name: str | Path) -> Resolved | None:
    """The existing folder or the bundled checkpoint that a name stands for; None when it may be a Hub name."""
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


def _from_hub(repo_id: str, revision: str | None, *, local_files_only: bool) -> Path:
    """The cached snapshot of one commit, downloaded first where needed; its folder is named by the commit."""
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
            _LOG.warning("using the cached commit %s of %s: %s", fallback.name, repo_id, error)
        return fallback


def _cached(repo_id: str, revision: str | None, *, offline: bool = False) -> Path | None:
    """The cached snapshot when it is known to be complete, without any request.

    Other libraries leave parts of a checkpoint in the same cache (the weights without the pooling), so what is complete
    is read from the list of the commit's files that the Hub client keeps. ``offline`` also takes a snapshot that lacks
    only the digests, and one without that list when it has all that its modules cannot do without.
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
        modules_known = isinstance(found[0], str) or found[0] is _CACHED_NO_EXIST
        return folder if offline and modules_known and _seems_whole(folder) else None
    if not all((folder / name).is_file() for name in _maps(sizes)):
        return None
    for name in _needed(repo_id, sizes, _modules(folder)):
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size is None and not (offline and name == "simpair.json"):
            return None
        if size not in (None, sizes[name]):
            advice = f"delete {folder.parent.parent} and load again"
            raise ModelCorrupt(f"{folder / name} has {size} bytes, on the Hub it has {sizes[name]}: {advice}")
    return folder


def _download(repo_id: str, revision: str | None) -> Path:
    """The snapshot of the commit that a revision names now, with all its needed files."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

    # Asked by itself first: a refused download would be answered with whatever the cache holds.
    info = HfApi().model_info(repo_id, revision=revision, timeout=HF_HUB_ETAG_TIMEOUT)
    names = [file.rfilename for file in info.siblings or []]
    maps = [Path(hf_hub_download(repo_id, name, revision=info.sha)) for name in _maps(names)]
    root = next((path.parent for path in maps if path.name == "modules.json"), None)
    needed = _needed(repo_id, names, _modules(root) if root else _PLAIN)
    exact = [glob.escape(name) for name in needed]
    folder = Path(snapshot_download(repo_id, revision=info.sha, allow_patterns=exact))
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:  # the client returns what it has when the Hub stops answering
        raise HubError(f"{repo_id}: the Hub did not give {missing[0]}: try again later")
    if revision != info.sha:  # last, so that the cache's branch moves to a complete commit only
        hf_hub_download(repo_id, needed[0], revision=revision)
    return folder


def _maps(names: Iterable[str]) -> list[str]:
    """The files that say which folders a checkpoint has."""
    return [name for name in names if name == "modules.json" or PurePosixPath(name).name == "router_config.json"]


def _modules(folder: Path) -> list[_Module]:
    """The modules of a checkpoint, a router's too; paths are relative, and ``""`` is the folder itself."""
    if not (folder / "modules.json").is_file():
        return _PLAIN
    try:
        entries = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        modules = [_module(folder, entry["type"], "", entry["path"]) for entry in entries]
        for parent in [module.path for module in modules]:
            if (folder / parent / "router_config.json").is_file():
                router: Any = json.loads((folder / parent / "router_config.json").read_text(encoding="utf-8"))
                modules += [_module(folder, kind, parent, path) for path, kind in router["types"].items()]
        return modules
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelCorrupt(f"{folder}: modules.json or router_config.json lists no modules ({error!r})") from error


def _module(folder: Path, kind: str, parent: str, path: str) -> _Module:
    windows = PureWindowsPath(path)
    if windows.anchor or ".." in windows.parts or "\0" in path:
        raise UnsafeModel(f"{folder}: the module path {path!r} leaves the checkpoint's folder")
    return _Module(kind.rpartition(".")[2], "/".join(PurePosixPath(parent, path).parts))


def _seems_whole(folder: Path) -> bool:
    """Whether a snapshot whose list of files is unknown has what its modules cannot do without."""
    modules = [module for module in _modules(folder) if module.kind not in ("Normalize", "Dropout")]
    for kind, path in modules:
        files = ["config.json"] if kind == "Pooling" else ["config.json", "model.safetensors"]
        if not all((folder / path / name).is_file() for name in files):
            return False
    vocabularies = ("tokenizer.json", "vocab.txt", "vocab.json")
    return any((folder / module.path / name).is_file() for module in modules for name in vocabularies)


def _needed(where: str | Path, names: Iterable[str], modules: list[_Module]) -> list[str]:
    """The files of a checkpoint among all the names in its folder or repository, none of them a pickle."""
    paths = {module.path for module in modules}
    needed, safe, pickled = [], set(), []
    for name in names:
        folder, _, file = name.rpartition("/")
        weights = folder in paths and _WEIGHTS.fullmatch(file)
        if weights or (folder in {"", *paths} and _FILES.fullmatch(file)):
            needed.append(name)
        if weights:
            safe.add(folder)
        elif folder in paths and _PICKLED.fullmatch(file):
            pickled.append(name)
    unsafe = [name for name in pickled if name.rpartition("/")[0] not in safe]
    if unsafe:
        raise UnsafeModel(
            f"{where} has {unsafe[0]} and no safetensors beside it; opening a pickle can run code: where you trust it, "
            f"SentenceTransformer({str(where)!r}).save_pretrained('folder') converts it"
        )
    if not safe:
        raise UnsupportedModel(f"{where} has no weights that can be read: expected model.safetensors")
    return needed


def _names_to_push(folder: Path) -> list[str]:
    """The files of a folder that go to the Hub, relative to it."""
    if not (folder / "README.md").is_file():
        raise InputError(f"{folder} has no README.md: write the model card first, it goes up with the weights")
    modules = _modules(folder)
    places = dict.fromkeys([folder, *(folder / module.path for module in modules)])
    files = [file for place in places if place.is_dir() for file in sorted(place.iterdir()) if file.is_file()]
    names = [file.relative_to(folder).as_posix() for file in files]
    chosen = _needed(folder, names, modules) + [name for name in names if _PAPERS.fullmatch(name)]
    for name in chosen:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{folder / name} links to a file elsewhere: save the checkpoint anew and push that folder"
            )
    return chosen


def _failures() -> tuple[type[Exception], ...]:
    """What the Hub client raises: HTTP, file and upload errors, and ValueErrors for an answer that is not a Hub's."""
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # its documented export, made lazily

    return httpx.HTTPError, OSError, RuntimeError, ValueError


def _root(error: Exception) -> Exception:
    """The error that the Hub client wrapped in "could not upload" or "not in the cache", or the error itself."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    cause = error.__cause__ if isinstance(error, (RuntimeError, LocalEntryNotFoundError)) else None
    return cause if isinstance(cause, Exception) else error


def _download_error(error: Exception, repo_id: str, revision: str | None) -> SimpairError:
    from huggingface_hub import errors

    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFound(f"{repo_id} has no branch, tag or commit {revision!r}")
    missing = isinstance(error, errors.HfHubHTTPError) and error.response.status_code == 404
    if missing or (isinstance(error, errors.RepositoryNotFoundError) and not isinstance(error, errors.GatedRepoError)):
        private = "if it is a private repository, log in with `hf auth login`"
        return ModelNotFound(f"no folder, bundled model or Hub repository is named {repo_id!r}; {private}")
    if _is_unreachable(error):
        return OfflineMiss(_miss(repo_id, revision, _reason(error)))
    return HubError(f"{repo_id}: {_reason(error)}")


def _miss(repo_id: str, revision: str | None, why: str) -> str:
    call = repr(repo_id) if revision is None else f"{repo_id!r}, revision={revision!r}"
    return (
        f"{repo_id} is not complete in the cache, and {why}: run TwinTowerEncoder.from_pretrained({call}) once online"
    )


def _is_unreachable(error: Exception) -> bool:
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    return isinstance(error, (httpx.TransportError, OfflineModeIsEnabled))


def _reason(error: Exception) -> str:
    """One line: what went wrong at the Hub, and what to do."""
    from huggingface_hub import errors

    detail = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if isinstance(error, errors.GatedRepoError):
        return "access is granted by its owner: ask on its page, then log in with `hf auth login`"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return f"the Hub refused access ({status}): log in with `hf auth login` and a token that may do this"
        return f"the Hub answered {status}, try again later ({detail})"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE rules the network out"
    if _is_unreachable(error):
        return f"the Hub could not be reached ({detail})"
    if "xet" in detail.lower():
        return f"the transfer with Xet failed, set HF_HUB_DISABLE_XET=1 to go without it ({detail})"
    return detail
