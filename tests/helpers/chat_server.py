"""A server on this machine that speaks OpenAI's chat protocol, for the tests of endpoints."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Chat(BaseHTTPRequestHandler):
    """Plays the server's script, an entry a request; after its end it answers well."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        step = self.server.script.pop(0) if self.server.script else self.server.answer(body)
        status, headers, text, pause = (*step, *(200, {}, "", 0)[len(step) :])
        time.sleep(pause)
        data = text.encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.server.trickle:
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(0.02)
        else:
            self.wfile.write(data)

    def log_message(self, *args):
        pass


def completion(text: str) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def good_answer(body: dict) -> tuple[int, dict, str]:
    """An explanation, or 10 for every token that is a line break."""
    question = body["messages"][0]["content"]
    if "Answer with a JSON list" not in question:
        return 200, {}, completion("line breaks")
    tokens = json.loads(next(line for line in question.splitlines() if line.startswith("[")))
    return 200, {}, completion(json.dumps([10 * (token == "\n") for token in tokens]))


class QuietServer(ThreadingHTTPServer):
    """Clients of these tests hang up early, which is no news."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


@contextmanager
def chat_server(answer: Callable[[dict], tuple[int, dict, str]] = good_answer) -> Iterator[Any]:
    """The server, running: `script` and `trickle` to set, `seen` to read; what it answers after."""
    with QuietServer(("127.0.0.1", 0), Chat) as running:
        running.script, running.seen, running.trickle = [], [], False
        running.answer = answer
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()
