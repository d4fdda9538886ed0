"""A small Hugging Face Hub: as much of its HTTP API as pushing and pulling a model need."""

import base64
import hashlib
import http.server
import json
import re
import threading
from typing import Any
from urllib.parse import urlsplit

import yaml

TOKEN = "hf_the_only_valid_token"
LARGE = (".eqx", ".safetensors", ".mp4")  # kept by Git LFS, as the Hub does with binary files


class HubServer(http.server.ThreadingHTTPServer):
    """Repositories of models: every file of every commit, and the objects of Git LFS."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[str, list[dict[str, bytes]]] = {}  # of each repository, oldest first
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, name: str) -> dict[str, bytes]:
        """The newest files of a repository."""
        return self.commits[name][-1]

    def commit_id(self, name: str, number: int) -> str:
        """40 hex digits, as git has them."""
        return hashlib.sha1(f"{name} {number}".encode()).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self, status: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, message: str, code: str = "") -> None:
        self.answer(status, {"error": message}, X_Error_Message=message, X_Error_Code=code)

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = self.read_chunks()
        path = urlsplit(self.path).path
        self.server.requests.append(f"{self.command} {path}")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", TOKEN):
            return self.refuse(401, "Invalid credentials in Authorization header")
        for method, pattern, write, action in ROUTES:
            match = re.fullmatch(pattern, path)
            if self.command in method and match:
                if write and not token:
                    return self.refuse(401, "Invalid username or password.")
                return action(self, body, *match.groups())
        return self.refuse(404, "Sorry, we can't find the page you are looking for.")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        url = f"{self.server.endpoint}/{name}"
        if name in self.server.commits:
            return self.answer(409, {"error": "You already created this model repo", "url": url})
        self.server.commits[name] = [{".gitattributes": b"*.eqx filter=lfs\n"}]
        self.server.private[name] = asked.get("private") or asked.get("visibility") == "private"
        return self.answer(200, {"url": url, "name": name, "id": name})

    def validate(self, body: bytes) -> None:
        metadata = yaml.safe_load(json.loads(body)["content"].split("---")[1])
        self.answer(200 if metadata.get("license") else 400, {"errors": [], "warnings": []})

    def known(self, name: str, revision: str | None) -> int | None:
        """The number of a revision; None after an error has been answered."""
        if name not in self.server.commits:
            status = 404 if "Authorization" in self.headers else 401
            self.refuse(status, "Repository not found", "RepoNotFound")
            return None
        count = len(self.server.commits[name])
        numbers = {self.server.commit_id(name, n): n for n in range(count)} | {"main": count - 1}
        if revision and revision not in numbers:
            self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return None
        return numbers[revision or "main"]

    def describe(self, body: bytes, name: str, revision: str | None) -> None:
        number = self.known(name, revision)
        if number is not None:
            files = [{"rfilename": path} for path in self.server.commits[name][number]]
            sha = self.server.commit_id(name, number)
            self.answer(200, {"id": name, "sha": sha, "siblings": files, "tags": []})

    def tree(self, body: bytes, name: str, revision: str) -> None:
        number = self.known(name, revision)
        if number is not None:
            files = self.server.commits[name][number]
            self.answer(200, [self.entry(path, data) for path, data in files.items()])

    def entry(self, path: str, data: bytes) -> dict[str, Any]:
        oid = hashlib.sha1(data).hexdigest()
        entry = {"type": "file", "path": path, "size": len(data), "oid": oid}
        if path.endswith(LARGE):
            sha256 = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 130}
        return entry

    def preupload(self, body: bytes, name: str) -> None:
        if self.known(name, None) is not None:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": modes})

    def batch(self, body: bytes, name: str) -> None:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.server.endpoint}/lfs/{oid}"}}}
            if (oid := wanted["oid"]) not in self.server.objects
            else wanted
            for wanted in json.loads(body)["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.refuse(400, "the object has another sha256")
        self.server.objects[oid] = body
        return self.answer(200)

    def commit(self, body: bytes, name: str) -> None:
        number = self.known(name, None)
        if number is None:
            return
        files = dict(self.server.files(name))
        for line in body.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        self.server.commits[name].append(files)
        oid = self.server.commit_id(name, number + 1)
        url = f"{self.server.endpoint}/{name}/commit/{oid}"
        self.answer(200, {"commitUrl": url, "commitOid": oid})

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        number = self.known(name, revision)
        if number is None:
            return
        data = self.server.commits[name][number].get(path)
        if data is None:
            return self.refuse(404, "Entry not found", "EntryNotFound")
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self.answer(200, data, ETag=etag, X_Repo_Commit=self.server.commit_id(name, number))


NAME = r"([\w.-]+/[\w.-]+)"
# Methods, path, whether it needs a token, and what it does.
ROUTES: tuple[tuple[str, str, bool, Any], ...] = (
    ("POST", "/api/repos/create", True, Handler.create),
    ("POST", "/api/validate-yaml", False, Handler.validate),
    ("GET", f"/api/models/{NAME}(?:/revision/([^/]+))?", False, Handler.describe),
    ("GET", f"/api/models/{NAME}/tree/([^/]+)", False, Handler.tree),
    ("POST", f"/api/models/{NAME}/preupload/main", True, Handler.preupload),
    ("POST", f"/{NAME}\\.git/info/lfs/objects/batch", True, Handler.batch),
    ("PUT", "/lfs/([0-9a-f]{64})", False, Handler.upload),
    ("POST", f"/api/models/{NAME}/commit/main", True, Handler.commit),
    ("GET HEAD", f"/{NAME}/resolve/([^/]+)/(.+)", False, Handler.resolve),
)
