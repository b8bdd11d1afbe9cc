"""Who visits a served page without a browser: opens it, drops files, votes, presses buttons, and goes."""

import itertools

from benchmarks.load import Page


class Visitor(Page):
    """An open page, known to the server until it is closed."""

    def __init__(self, url: str, number: object) -> None:
        super().__init__(url, number)
        self._alive = self.http.stream("GET", f"/gradio_api/heartbeat/{self.session}")
        self._alive.__enter__()
        for event in self.on("load"):
            self.send(event)

    def part(self, name: str) -> int:
        return next(i for i, props in self.parts.items() if props.get("elem_id") == name)

    def press(self, name: str, kind: str, fields: dict, happened: dict | None = None) -> str:
        """Set an event off, with some fields filled in by their names; returns all that the server says of it."""
        event = next(one for one in self.all_events if [self.part(name), kind] in one["targets"])
        values = [fields.get(self.parts[i].get("elem_id") or "", self.parts[i].get("value")) for i in event["inputs"]]
        body = {"fn_index": event["id"], "data": values, "session_hash": self.session, "event_data": happened}
        if not event["queue"]:
            return self.http.post("/gradio_api/run/predict", json=body).raise_for_status().text
        self.http.post("/gradio_api/queue/join", json=body).raise_for_status()
        query = {"session_hash": self.session}
        with self.http.stream("GET", "/gradio_api/queue/data", params=query) as stream:
            return "".join(itertools.takewhile(lambda line: '"close_stream"' not in line, stream.iter_lines()))

    def drop(self, text: str, name: str) -> str:
        """Drop a file on the Data tab."""
        sent = self.http.post("/gradio_api/upload", files={"files": (name, text.encode())}).raise_for_status().json()
        files = [{"path": sent[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}]
        return self.press("data-upload", "upload", {"data-upload": files})

    def vote(self, question: str, answer: str, up: bool) -> None:
        """Give an answer in the chat a thumb."""
        said = (("user", question), ("assistant", answer))
        chat = [{"role": who, "content": [{"type": "text", "text": text}]} for who, text in said]
        fields = {"feedback-chat": chat, "feedback-run": "model:demo"}
        self.press("feedback-chat", "like", fields, {"index": 1, "value": answer, "liked": up})

    def close(self) -> None:
        self._alive.__exit__(None, None, None)
        self.http.close()
