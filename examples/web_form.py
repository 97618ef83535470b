"""A web page that gives work away and waits for it: WSGI, threads, no event loop in sight.

python web_form.py 8000                              this process works as well
QUE_URL=gearman://127.0.0.1:4730 python web_form.py 8000

Then look at http://127.0.0.1:8000/count?text=to+be+or+not+to+be
"""

import sys
from collections.abc import Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIServer, make_server

import que

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

app = que.Que()  # $QUE_URL, or else memory://


@app.job("countWords")
def count_words(params: str) -> dict[str, int]:
    words = params.split()
    return {word: words.count(word) for word in sorted(set(words))}


def page(q: que.BlockingQue) -> "WSGIApplication":
    """Return the page, whose threads all share `q`."""

    def respond(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        text = parse_qs(environ.get("QUERY_STRING", "")).get("text", [""])[0]
        try:
            counted = q.submit(count_words, text).result(timeout=5)
        except que.ResultTimeout:
            status, body = "504 Gateway Timeout", "no worker answers"
        except que.QueError as error:
            status, body = "502 Bad Gateway", str(error)
        else:
            status, body = "200 OK", "".join(f"{word} {count}\n" for word, count in counted.items())
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body.encode()]

    return respond


class Server(ThreadingMixIn, WSGIServer):
    """A thread per request."""


def main(port: int) -> None:
    # One q per process, opened where the process serves: after a fork, as under gunicorn, not before it.
    with app.blocking() as q, q.worker(), make_server("127.0.0.1", port, page(q), Server) as server:
        print(f"http://127.0.0.1:{server.server_port}/count", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
