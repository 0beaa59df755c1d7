"""A hub on the loopback: the part of its protocol that huggingface_hub speaks when it lists and
downloads."""

import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from dataclasses import dataclass, field

from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROUTE = re.compile(
    r"/(?P<api>api/)?((?P<type>models|datasets)/)?(?P<repo>[\w.-]+/[\w.-]+)"
    r"(/(?P<what>revision|tree|resolve)/(?P<revision>[^/]+)(/(?P<file>.*))?)?"
)


@dataclass
class Repository:
    """Files of a repository at one commit. card: its README's metadata; gated: access needs the
    token."""

    files: dict[str, bytes]
    card: dict = field(default_factory=dict)
    branches: tuple[str, ...] = ("main",)
    commit: str = COMMIT
    gated: bool = False
    listed: dict[str, int] = field(default_factory=dict)  # further names in the listing, with sizes


class HubServer:
    """Serves {"ORG/NAME" or "datasets/ORG/NAME": Repository}; a context manager. `token` opens what
    is gated."""

    token = "hf_good"

    def __init__(self, repositories):
        self.repositories, self.requests = repositories, []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                hub.answer(self, with_body=True)

            def do_HEAD(self):
                hub.answer(self, with_body=False)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request, with_body):
        path = urllib.parse.unquote(urllib.parse.urlparse(request.path).path)
        self.requests.append(path)
        status, headers, body = self._answer(path, request.headers.get("Authorization", ""))
        request.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            request.send_header(name, value)
        request.end_headers()
        if with_body:
            request.wfile.write(body)

    def _answer(self, path, authorization):
        route = ROUTE.fullmatch(path)
        kind = "datasets/" if route and route["type"] == "datasets" else ""
        found = self.repositories.get(kind + route["repo"]) if route else None
        if found is None:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if found.gated and authorization != f"Bearer {self.token}":
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        revision = route["revision"] or "main"
        if revision not in (*found.branches, found.commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if route["api"]:
            content = _tree(found) if route["what"] == "tree" else _info(route["repo"], found)
            return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()
        data = found.files.get(route["file"])
        if data is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return 200, {"X-Repo-Commit": found.commit, "ETag": f'"{_oid(data)}"'}, data


@contextlib.contextmanager
def in_place_of_the_hub(repositories, monkeypatch, cache):
    """Serve these repositories where huggingface_hub looks for the hub, with an empty cache of
    ours."""
    with HubServer(repositories) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("LFL_CACHE", str(cache))
        monkeypatch.setenv("HF_TOKEN", "hf_none")
        yield server


def _oid(data):
    return hashlib.sha1(data).hexdigest()


def _tree(repository):
    files = repository.files.items()
    return [
        {"type": "file", "path": name, "size": len(data), "oid": _oid(data)} for name, data in files
    ]


def _info(repo, repository):
    sizes = {name: len(data) for name, data in repository.files.items()} | repository.listed
    files = [{"rfilename": name, "size": size, "blobId": "0" * 40} for name, size in sizes.items()]
    moment, card = "2024-01-01T00:00:00.000Z", repository.card
    about = {"_id": "1", "id": repo, "sha": repository.commit, "cardData": card, "siblings": files}
    flags = {
        "private": False,
        "gated": repository.gated,
        "disabled": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
    }
    return about | flags | {"lastModified": moment, "createdAt": moment}
