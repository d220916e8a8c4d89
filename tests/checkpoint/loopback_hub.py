"""A small Hugging Face Hub on 127.0.0.1, held in memory: what the Hub client asks when it downloads and when it pushes.

Knows nothing of simpair. Every request is kept; any of them can be made to fail, to stall, or to break off.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants


def module_list(*modules: tuple[str, str]) -> bytes:
    """The content of ``modules.json`` for modules given by class and path."""
    entries = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in modules]
    return json.dumps(entries).encode()


CHECKPOINT = {
    "config.json": b'{"model_type": "bert"}',
    "modules.json": module_list(("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")),
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    "sentence_bert_config.json": b'{"max_seq_length": 128}',
    "config_sentence_transformers.json": b'{"prompts": {}}',
    "tokenizer.json": b'{"model": {}}',
    "tokenizer_config.json": b"{}",
    "simpair.json": b'{"sha256": {}}',
    "model.safetensors": bytes(range(256)) * 800,
}


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Fault:
    """What happens to requests whose ``METHOD /path`` matches: an HTTP error, or a body that stops after some bytes.

    A stopped body sets ``stopped``, waits for ``resume``, and then breaks the connection off.
    """

    pattern: str
    status: int = 0
    code: str = ""
    stop_after: int | None = None
    times: int = 1_000_000


@dataclass
class Repo:
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)

    def add(self, branch: str, changes: dict[str, bytes], title: str) -> str:
        files = {**self.commits.get(self.branches.get(branch, ""), {}), **changes}
        self.titles.append(title)
        sha = hashlib.sha1(f"{len(self.titles)} {branch} {title}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def find(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class LoopbackHub:
    """The server; a context manager. ``url`` is what HF_ENDPOINT must be."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.stopped = threading.Event()
        self.resume = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LoopbackHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.resume.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def commit(self, repo_id: str, files: dict[str, bytes], *, branch: str = "main") -> str:
        """The commit that adds the files to a repository, made if it does not exist."""
        return self.repos.setdefault(repo_id, Repo()).add(branch, files, "commit")

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        repo = self.repos[repo_id]
        return repo.commits[repo.branches[branch]]

    def asked(self) -> list[str]:
        """Every request as ``METHOD /path``."""
        return [f"{request.method} {request.path}" for request in self.requests]


class _Refusal(Exception):
    def __init__(self, status: int, code: str = "", *, commit: str = "", body: object | None = None) -> None:
        super().__init__(status)
        self.status, self.body = status, {} if body is None else body
        headers = {"X-Error-Code": code, "X-Repo-Commit": commit}
        self.headers = {name: value for name, value in headers.items() if value}


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement
    body: bytes

    def log_message(self, *_: object) -> None:
        """Nothing: stderr belongs to the tests."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        asked = f"{self.command} {path}"
        self.hub.requests.append(Request(self.command, unquote(path), dict(self.headers), self.body))
        fault = next((one for one in self.hub.faults if one.times > 0 and re.search(one.pattern, asked)), None)
        if fault is not None:
            fault.times -= 1
        try:
            if fault is not None and fault.status:
                raise _Refusal(fault.status, fault.code)
            content, headers = self._route(asked)
        except _Refusal as refusal:
            self._send(refusal.status, json.dumps(refusal.body).encode(), refusal.headers)
        else:
            self._send(200, content, headers, stop_after=fault.stop_after if fault else None)

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, stop_after: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[:stop_after])
        if stop_after is not None:
            self.wfile.flush()
            self.hub.stopped.set()
            self.hub.resume.wait()
            self.close_connection = True

    def _route(self, asked: str) -> tuple[bytes, dict[str, str]]:
        for pattern, action in _ROUTES:
            match = re.fullmatch(pattern, asked)
            if match is not None:
                answer = action(self, *map(unquote, match.groups()))
                return answer if isinstance(answer, tuple) else (json.dumps(answer).encode(), {})
        raise _Refusal(404)

    def _repo(self, repo_id: str) -> Repo:
        if repo_id not in self.hub.repos:
            raise _Refusal(404, "RepoNotFound")
        return self.hub.repos[repo_id]

    def _commit(self, repo_id: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        repo = self._repo(repo_id)
        sha = repo.find(revision or "main")
        if sha is None:
            raise _Refusal(404, "RevisionNotFound")
        return sha, repo.commits[sha]

    def info(self, repo_id: str, revision: str | None) -> object:
        sha, files = self._commit(repo_id, revision)
        return {"_id": "0", "id": repo_id, "sha": sha, "siblings": [{"rfilename": name} for name in files]}

    def tree(self, repo_id: str, revision: str, folder: str = "") -> object:
        sha, files = self._commit(repo_id, revision)
        inside = {name: content for name, content in files.items() if name.startswith(folder)}
        if not inside:
            raise _Refusal(404, "EntryNotFound", commit=sha)
        return [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in inside.items()
        ]

    def file(self, _: str, repo_id: str, revision: str, name: str) -> tuple[bytes, dict[str, str]]:
        sha, files = self._commit(repo_id, revision)
        if name not in files:
            raise _Refusal(404, "EntryNotFound", commit=sha)
        etag = hashlib.sha256(files[name]).hexdigest()
        return files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": sha}

    def create(self) -> object:
        asked = json.loads(self.body)
        repo_id = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.hub.url}/{repo_id}"}
        if repo_id in self.hub.repos:
            raise _Refusal(409, body=url)
        self.hub.repos[repo_id] = Repo(private=asked.get("visibility") == "private")
        self.hub.commit(repo_id, {".gitattributes": b""})
        return url

    def branch(self, repo_id: str, name: str) -> object:
        repo = self._repo(repo_id)
        if name in repo.branches:
            raise _Refusal(409)
        repo.branches[name] = repo.branches["main"]
        return {}

    def validate_card(self) -> object:
        return {"errors": [], "warnings": []}

    def preupload(self, repo_id: str, revision: str) -> object:
        sha, _ = self._commit(repo_id, revision)
        names = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
        return {
            "files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()],
            "commitOid": sha,
        }

    def lfs_batch(self, repo_id: str) -> object:
        self._repo(repo_id)
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if item["oid"] not in self.hub.lfs:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def lfs_put(self, oid: str) -> object:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refusal(400)
        self.hub.lfs[oid] = self.body
        return {}

    def push(self, repo_id: str, branch: str) -> object:
        lines: list[Any] = [json.loads(line) for line in self.body.splitlines()]
        changes = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changes[value["path"]] = self.hub.lfs[value["oid"]]
        sha = self._repo(repo_id).add(branch, changes, lines[0]["value"]["summary"])
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{sha}"}


_ID = r"([^/]+/[^/]+|[^/]+)"
_ROUTES: list[tuple[str, Callable[..., object]]] = [
    (rf"GET /api/models/{_ID}/tree/([^/]+)", _Handler.tree),
    (rf"GET /api/models/{_ID}/tree/([^/]+)/(.+)", _Handler.tree),
    (rf"GET /api/models/{_ID}/revision/(.+)", _Handler.info),
    (rf"GET /api/models/{_ID}()", _Handler.info),
    (rf"(GET|HEAD) /{_ID}/resolve/([^/]+)/(.+)", _Handler.file),
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate_card),
    (rf"POST /api/models/{_ID}/branch/(.+)", _Handler.branch),
    (rf"POST /api/models/{_ID}/preupload/(.+)", _Handler.preupload),
    (rf"POST /{_ID}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (r"PUT /lfs/([0-9a-f]{64})", _Handler.lfs_put),
    (rf"POST /api/models/{_ID}/commit/(.+)", _Handler.push),
]


@contextmanager
def connected_hub(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[LoopbackHub]:
    """A Hub that this process's Hub client talks to, with an empty cache below ``home``, without waits and Xet."""
    with LoopbackHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        files = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
        yield server
        huggingface_hub.close_session()


def read_files(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder, by its relative name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """The folder, with the files written into it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
