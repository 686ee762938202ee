"""A hub on loopback that serves a few files as the Hugging Face hub does, takes uploads, and can fail."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
PAGE = b"<!DOCTYPE html><html><body>Please log in.</body></html>"


class HubStandIn:
    """Repositories in memory.

    Attributes:
        files: content by "OWNER/NAME/PATH"; a repository is there as soon as one of its files is.
        faults: by file name, what goes wrong with it: "missing"; "error" (status 500); "cut" (an answer ends after
            400 kB); "stuck" (no byte arrives); "wrong" (other bytes than promised); "pointer" or "page" (in its place).
        refuses_uploads: whether nobody may write.
        requests: method, path and range of everything that was asked.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, str] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.refuses_uploads = False
        self.address = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubStandIn

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve(head=True)

    def do_GET(self) -> None:
        self._serve(head=False)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._note("POST")
        if self.hub.refuses_uploads and not self.path.endswith("/validate-yaml"):
            self._fail(403, None)
        elif self.path == "/api/repos/create":
            values = json.loads(body)
            repository = f"{values['organization']}/{values['name']}" if values.get("organization") else values["name"]
            self._answer({"url": f"{self.hub.address}/{repository}", "name": repository})
        elif "/preupload/" in self.path:
            fixed = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            named = [{"path": file["path"], **fixed} for file in json.loads(body)["files"]]
            self._answer({"files": named})
        elif "/commit/" in self.path:
            repository = self.path.removeprefix("/api/models/").split("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.hub.files[f"{repository}/{line['value']['path']}"] = base64.b64decode(line["value"]["content"])
            self._answer(
                {"commitUrl": f"{self.hub.address}/{repository}/commit/{COMMIT}", "commitOid": COMMIT, "hookOutput": ""}
            )
        else:
            self._answer({"errors": [], "warnings": []})

    def _note(self, method: str) -> None:
        self.hub.requests.append((method, self.path, self.headers.get("Range")))

    def _serve(self, head: bool) -> None:
        self._note("HEAD" if head else "GET")
        if self.path.startswith("/api/"):
            self._answer({"id": "stand-in", "sha": COMMIT, "siblings": []})
            return
        repository, _, rest = self.path[1:].partition("/resolve/")
        revision, _, name = rest.partition("/")
        promised = self.hub.files.get(f"{repository}/{name}")
        fault = self.hub.faults.get(Path(name).name)
        if not any(file.startswith(f"{repository}/") for file in self.hub.files):
            self._fail(404, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._fail(404, "RevisionNotFound")
        elif promised is None or fault == "missing":
            self._fail(404, "EntryNotFound")
        elif fault == "error" and not head:
            self._fail(500, None)
        else:
            self._send(promised, fault, head)

    def _send(self, promised: bytes, fault: str | None, head: bool) -> None:
        impostors = {"pointer": POINTER, "page": PAGE, "wrong": promised[:-1] + bytes([promised[-1] ^ 1])}
        content = impostors.get(fault or "", promised)
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if first else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        # What stands in for weights is small, and the hub calls small files by another sum than SHA-256.
        digest = hashlib.sha1(content) if fault in ("pointer", "page") else hashlib.sha256(promised)
        self.send_header("ETag", f'"{digest.hexdigest()}"')
        self.send_header("X-Linked-Etag", f'"{digest.hexdigest()}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Connection", "close")
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if head:
            return
        body = content[first:]
        if fault == "stuck":
            body = b""
        elif fault == "cut":
            body = body[:400_000]
        self.wfile.write(body)
        self.close_connection = True

    def _fail(self, status: int, code: str | None) -> None:
        self.send_response(status)
        self.send_header("X-Repo-Commit", COMMIT)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, values: dict) -> None:
        body = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serve_hub() -> Iterator[HubStandIn]:
    """Serve an empty hub until the context ends."""
    hub = HubStandIn()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


def turn_to(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Make huggingface_hub, whose settings are read when it is imported, use this hub and an empty cache."""
    from huggingface_hub import constants, file_download, hf_api

    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for module in (constants, file_download, hf_api):
        if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)  # part of a chunk is lost in a cut
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    monkeypatch.setenv("VCM_CACHE", str(cache / "vcm"))
    monkeypatch.delenv("VCM_WEIGHTS", raising=False)
