"""What Kubernetes' API does with jobs, in small: takes them, runs them here, says how they ended.

A stand-in for the server and its nodes, not for the client or for Snakemake's executor, which are
real. Checked as the real one does: a GPU that is requested must be limited to the same number.
"""

import base64
import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]
NAMED = re.compile(r"/(secrets|jobs|pods)(?:/([^/?]+))?(/status)?(?:\?.*)?$")


class Cluster(ThreadingHTTPServer):
    """Jobs by name as they were sent, their processes, and secrets."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder  # of working directories and output
        self.jobs: dict[str, Json] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.secrets: dict[str, dict[str, str]] = {}

    def start(self, job: Json) -> None:
        """Run a job's container: its command, in an empty folder, with nothing but its own env."""
        name = job["metadata"]["name"]
        [container] = job["spec"]["template"]["spec"]["containers"]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        for variable in container["env"]:
            key = variable["valueFrom"]["secretKeyRef"]
            env[variable["name"]] = self.secrets[key["name"]][key["key"]]
        self.jobs[name] = job
        with (self.folder / f"{name}.log").open("wb") as log:
            command = [*container["command"], *container["args"]]
            place = tempfile.mkdtemp(dir=self.folder)
            self.processes[name] = subprocess.Popen(
                command, cwd=place, env=env, stdout=log, stderr=log
            )

    def status(self, name: str) -> Json:
        code = self.processes[name].poll()
        return {"active": 1} if code is None else {"failed": 1} if code else {"succeeded": 1}


class Handler(BaseHTTPRequestHandler):
    """The few requests that the executor makes."""

    server: Cluster

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._asked()[0] == "secrets":
            data = {k: base64.b64decode(v).decode() for k, v in body["data"].items()}
            self.server.secrets[body["metadata"]["name"]] = data
        elif problem := refused(body):
            self._answer({"kind": "Status", "message": problem}, 422)
            return
        else:
            self.server.start(body)
        self._answer(body, 201)

    def do_GET(self) -> None:
        kind, name = self._asked()
        if kind == "pods":
            self._answer({"kind": "PodList", "items": []})
        else:
            self._answer(self.server.jobs[name] | {"status": self.server.status(name)})

    def do_DELETE(self) -> None:
        self._answer({"kind": "Status", "status": "Success"})

    def _asked(self) -> tuple[str, str]:
        match = NAMED.search(self.path)
        assert match, self.path
        return match[1], match[2] or ""

    def _answer(self, body: Json, code: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


def refused(job: Json) -> str:
    """Why a real server would not take this job, in part; empty if it would."""
    [container] = job["spec"]["template"]["spec"]["containers"]
    resources = container["resources"]
    for name, amount in resources["requests"].items():
        if "/gpu" in name and resources.get("limits", {}).get(name) != amount:
            return f"Limit must be set for non overcommitable resources: {name}"
    volumes = {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    return "" if mounted <= volumes else f"no volumes {mounted - volumes}"


@contextmanager
def cluster_of_one(folder: Path) -> Iterator[Cluster]:
    """The server, running; `folder`/kubeconfig says where."""
    with Cluster(folder) as server:
        where = {"server": f"http://127.0.0.1:{server.server_port}"}
        context = {"cluster": "here", "user": "me", "namespace": "default"}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": where}],
            "contexts": [{"name": "here", "context": context}],
            "users": [{"name": "me", "user": {}}],
        }  # fmt: skip
        (folder / "kubeconfig").write_text(yaml.safe_dump(config))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            for process in server.processes.values():
                process.kill()
                process.wait()
