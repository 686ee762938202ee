"""A visitor without a browser: speaks with a running app exactly as its page does, by the queue and the uploads."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx

PATIENCE_SECONDS = 120
PATIENT = {"timeout": PATIENCE_SECONDS}
"""For a client of Gradio's own, which gives up after five seconds otherwise: a busy machine takes longer."""


@dataclass
class Visitor:
    """One session of the app at `url`, which ends with a slash."""

    url: str
    session: str = field(default_factory=lambda: secrets.token_hex(6))

    def __post_init__(self) -> None:
        self._http = httpx.Client(base_url=self.url, timeout=PATIENCE_SECONDS)
        self._config = self._http.get("config").json()

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        """Upload a file, and return it as the page would pass it on."""
        answer = self._http.post("gradio_api/upload", files={"files": (name, content)})
        answer.raise_for_status()
        return {"path": answer.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def call(self, elem_id: str, event: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fire the handler of an event, and return what its answers put into which component, by `elem_id`.

        Args:
            elem_id: of the component that the event belongs to.
            event: such as "click".
            values: by `elem_id`, of those inputs that are not as the page opened.

        Raises:
            RuntimeError: the handler failed; the message is what the page would show.
        """
        dependency = self.find(elem_id, event)
        *_, last = self.follow(dependency, self.join(dependency, values or {}))
        return last

    def find(self, elem_id: str, event: str) -> dict[str, Any]:
        """Return the handler of a component's event that works on the server."""
        component = next(c["id"] for c in self._config["components"] if c["props"].get("elem_id") == elem_id)
        handlers = [d for d in self._config["dependencies"] if [component, event] in map(list, d["targets"])]
        return next(d for d in handlers if d["backend_fn"])

    def after(self, dependency: dict[str, Any]) -> dict[str, Any]:
        """Return the handler that runs when another one is done."""
        return next(
            d for d in self._config["dependencies"] if d["trigger_after"] == dependency["id"] and d["backend_fn"]
        )

    def join(self, dependency: dict[str, Any], values: dict[str, Any]) -> httpx.Response:
        """Enter the queue for a handler."""
        known = {component["id"]: component["props"] for component in self._config["components"]}
        data = [
            values.get(known[number].get("elem_id") or "", known[number].get("value"))
            for number in dependency["inputs"]
        ]
        return self._http.post(
            "gradio_api/queue/join",
            json={"data": data, "fn_index": dependency["id"], "session_hash": self.session, "trigger_id": None},
        )

    def follow(self, dependency: dict[str, Any], joined: httpx.Response) -> Iterator[dict[str, Any]]:
        """Yield the answers of a handler whose queue was entered."""
        if joined.status_code != 200:
            raise RuntimeError(joined.json()["detail"])
        names = {component["id"]: component["props"].get("elem_id") for component in self._config["components"]}
        outputs = [names[number] for number in dependency["outputs"]]
        shown: dict[str, Any] = {}
        with self._http.stream("GET", "gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message.get("event_id") not in {joined.json()["event_id"], None}:
                    continue
                is_done = message.get("msg") == "process_completed"
                if is_done and not message["success"]:
                    raise RuntimeError(message["output"].get("error") or "an error without words")
                if is_done or message.get("msg") == "process_generating":
                    for name, value in zip(outputs, message["output"].get("data") or (), strict=False):
                        _put(shown, name, value)
                    yield dict(shown)
                if is_done:
                    return
        raise RuntimeError("the connection ended before the answer")

    def fetch(self, path: str) -> httpx.Response:
        """Get a file that the app has named."""
        return self._http.get(f"gradio_api/file={path}")


def _put(shown: dict[str, Any], name: str, value: Any) -> None:
    """Take in one component's part of an answer: a value, no change, or the change of an earlier value."""
    if isinstance(value, dict) and value.get("__type__") == "update":
        shown |= {name: value["value"]} if "value" in value else {}
    elif isinstance(value, list) and value and all(isinstance(part, list) and len(part) == 3 for part in value):
        for kind, path, change in value:
            if not path:  # a change within a value is of no interest here
                _put(shown, name, shown[name] + change if kind == "append" else change)
    elif value != []:
        shown[name] = value


def text_of(html: str) -> str:
    """Return the text that a reader of some HTML sees."""
    words: list[str] = []
    parser = HTMLParser()
    parser.handle_data = words.append  # type: ignore[method-assign]
    parser.feed(html)
    return " ".join(words)


def write(folder: Path, name: str, content: bytes) -> Path:
    """Write bytes to a file of its own folder, and return its path."""
    path = folder / name
    path.write_bytes(content)
    return path
