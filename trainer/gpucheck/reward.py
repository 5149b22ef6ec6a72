"""A reward server whose judgement follows from a completion's text alone."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WEIGHTS = {"compliance": 1.0}
TOKEN = "gpu-check"  # noqa: S105 - it guards nothing


def score(text: str) -> float:
    """Between 0 and 1. It means nothing, but other texts have other scores: a curve shows what was drawn."""
    return hashlib.sha256(text.encode()).digest()[0] / 255


class Server:
    """Keeps what it was last asked at each step."""

    def __init__(self) -> None:
        self.asked: dict[int, list[dict[str, Any]]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.headers["Authorization"] != f"Bearer {TOKEN}":
                    self.send_error(401)
                    return
                outer.asked[body["step"]] = body["items"]
                rewards = [score(item["completion"]) for item in body["items"]]
                content = json.dumps({"rewards": rewards, "terms": {"compliance": rewards}}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/reward"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self) -> dict[int, list[dict[str, Any]]]:
        """What was asked since, by step."""
        asked, self.asked = self.asked, {}
        return asked

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
