"""A small server with the part of S3's interface that stores use, in a process of its own.

It serves the objects in a folder, `FOLDER/BUCKET/KEY`, over plain HTTP. Requests can be delayed,
and can be made to fail: see `ObjectServer.fail`.

    with ObjectServer(folder, delay=0.02) as server:
        os.environ |= server.environment
        open_feature_sets("s3://bucket/train.zarr")
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4
from xml.sax.saxutils import escape, unescape

KEY, SECRET = "AKIATESTONLY", "only-the-tests-know-this-secret"
_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
_BLOCK_BYTES = 1 << 18


class ObjectServer:
    """The server, while the context is open.

    Parameters
    ----------
    folder : path
        Has one folder for each bucket.

    delay : float
        The seconds before every answer.

    megabytes_per_second : float
        The speed of each connection; 0 for no limit.
    """

    def __init__(self, folder, *, delay=0.0, megabytes_per_second=0.0):
        self._folder = Path(folder)
        self._settings = {"delay": delay, "rate": megabytes_per_second * 1e6}

    def __enter__(self):
        command = [sys.executable, __file__, str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.endpoint = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self.set(**self._settings)
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    @property
    def environment(self):
        """The variables that a client needs."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    def set(self, **settings):
        """Change `delay` (seconds), `rate` (bytes per second) or `needs_key`."""
        return self._control("set", settings)

    def fail(self, kind, match="", *, times=1 << 30, method="GET"):
        """Let requests fail.

        Parameters
        ----------
        kind : {"403", "404", "503", "stall", "drop", "half", "half stall", "damage"}
            A status; no answer; a connection that is closed before the answer, or in the middle of
            it; an answer that stops in the middle; one byte changed.

        match : str
            A regular expression that is searched in the key of the object.

        times : int
            The number of requests that fail.

        method : str
            The method of these requests.
        """
        self._control("fail", {"kind": kind, "match": match, "times": times, "method": method})

    def mend(self):
        """Let no more requests fail."""
        self._control("mend", {})

    def counts(self):
        """Return the counts since the last call: requests, bytes sent, the peak in flight, keys."""
        return self._control("counts", {})

    def _control(self, action, values):
        request = urllib.request.Request(
            f"{self.endpoint}/-/{action}", json.dumps(values).encode(), method="POST"
        )
        # Not through a proxy of the environment.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            return json.load(answer)


class _State:
    """What the threads of the server share."""

    def __init__(self, folder):
        self.folder = folder
        self.settings = {"delay": 0.0, "rate": 0.0, "needs_key": True}
        self.faults = []
        self.lock = threading.Lock()
        self.busy = 0
        self.counts = self._zero()

    def _zero(self):
        return {"requests": 0, "bytes": 0, "peak": 0, "keys": []}

    def control(self, action, values):
        with self.lock:
            if action == "set":
                self.settings |= values
            elif action == "fail":
                self.faults.append(values)
            elif action == "mend":
                self.faults.clear()
            counts, self.counts = self.counts, self._zero() if action == "counts" else self.counts
            return counts

    def fault(self, method, key):
        with self.lock:
            for fault in self.faults:
                if fault["method"] == method and fault["times"] and re.search(fault["match"], key):
                    fault["times"] -= 1
                    return fault["kind"]
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # headers and short bodies leave in one packet
    disable_nagle_algorithm = True
    state = None

    def log_message(self, *_):
        pass

    def _handle(self):
        url = urlsplit(self.path)
        self.query = parse_qs(url.query, keep_blank_values=True)
        self.key = unquote(url.path).strip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.key.startswith("-/"):
            answer = self.state.control(self.key[2:], json.loads(body))
            return self._answer(200, json.dumps(answer).encode())
        with self.state.lock:
            counts = self.state.counts
            self.state.busy += 1
            counts["requests"] += 1
            counts["keys"].append(f"{self.command} {self.key}")
            counts["peak"] = max(counts["peak"], self.state.busy)
        time.sleep(self.state.settings["delay"])
        with self.state.lock:
            # Before the answer, after which the client may at once send the next request.
            self.state.busy -= 1
        try:
            self._serve(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815 - names of the base class

    def _serve(self, body):
        self.fault = self.state.fault(self.command, self.key)
        is_s3 = "x-amz-content-sha256" in self.headers
        if self.fault in ("403", "404", "503"):
            return self._refuse(int(self.fault))
        if self.fault == "drop":
            return self._hang_up()
        if self.fault == "stall":
            time.sleep(3600)
        is_signed = f"Credential={KEY}/" in self.headers.get("Authorization", "")
        if is_s3 and self.state.settings["needs_key"] and not is_signed:
            return self._refuse(403)
        if self.command in ("GET", "HEAD"):
            return self._list() if "list-type" in self.query else self._get()
        if not is_s3:
            return self._refuse(405)
        return {"PUT": self._put, "POST": self._post, "DELETE": self._delete}[self.command](body)

    @property
    def _path(self):
        return self.state.folder / self.key

    def _answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def _refuse(self, status):
        # As S3 does, the answer names the key that it does not like.
        code = {403: "SignatureDoesNotMatch", 404: "NoSuchKey", 503: "SlowDown"}.get(status, "No")
        text = f"<Error><Code>{code}</Code><AWSAccessKeyId>{KEY}</AWSAccessKeyId></Error>"
        self._answer(status, text.encode(), Content_Type="application/xml")

    def _hang_up(self):
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _get(self):
        if not self._path.is_file():
            return self._refuse(404)
        size = self._path.stat().st_size
        start, stop, status = 0, size, 200
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            if first:
                start, stop = int(first), min(size, int(last) + 1) if last else size
            else:
                start = max(0, size - int(last))
            if start >= size:
                return self._refuse(416)
            status = 206
        self.send_response(status)
        self.send_header("ETag", f'"{self._path.stat().st_mtime_ns}"')
        self.send_header("Last-Modified", _DATE)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.flush()
        if self.command == "GET":
            self._send(start, stop)

    def _send(self, start, stop):
        end = start + (stop - start) // 2 if self.fault in ("half", "half stall") else stop
        began, rate, sent = time.monotonic(), self.state.settings["rate"], start
        with open(self._path, "rb") as file:
            if self.fault == "damage":
                file.seek(start)
                data = bytearray(file.read(stop - start))
                data[len(data) // 2] ^= 1
                self.connection.sendall(data)
                sent = end
            while sent < end:
                n_bytes = min(_BLOCK_BYTES, end - sent)
                sent += os.sendfile(self.connection.fileno(), file.fileno(), sent, n_bytes)
                if rate:
                    time.sleep(max(0.0, (sent - start) / rate - (time.monotonic() - began)))
        with self.state.lock:
            self.state.counts["bytes"] += sent - start
        if self.fault == "half":
            self._hang_up()
        if self.fault == "half stall":
            time.sleep(3600)

    def _list(self):
        bucket, _, _ = self.key.partition("/")
        root = self.state.folder / bucket
        prefix, delimiter = (self.query.get(name, [""])[0] for name in ("prefix", "delimiter"))
        keys = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
        found, folders = [], set()
        for key in keys:
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix) or ".part" in key:
                continue
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                found.append((key, (root / key).stat().st_size))
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>x</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, size in found
        )
        contents += "".join(
            f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            for folder in sorted(folders)
        )
        text = (
            f"<ListBucketResult><Name>{bucket}</Name><IsTruncated>false</IsTruncated>"
            f"<KeyCount>{len(found)}</KeyCount>{contents}</ListBucketResult>"
        )
        self._answer(200, text.encode(), Content_Type="application/xml")

    def _put(self, body):
        path = self._path
        if "partNumber" in self.query:
            number, upload = (self.query[name][0] for name in ("partNumber", "uploadId"))
            path = path.with_name(f"{path.name}.{upload}.part{int(number):05d}")
        _write(path, body)
        self._answer(200, ETag=f'"{uuid4().hex}"')

    def _post(self, body):
        if "delete" in self.query:
            bucket = self.key.partition("/")[0]
            keys = [unescape(key) for key in re.findall("<Key>(.*?)</Key>", body.decode())]
            for key in keys:
                (self.state.folder / bucket / key).unlink(missing_ok=True)
            deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
            text = f"<DeleteResult>{deleted}</DeleteResult>"
        elif "uploads" in self.query:
            text = (
                f"<InitiateMultipartUploadResult><UploadId>{uuid4().hex}</UploadId>"
                "</InitiateMultipartUploadResult>"
            )
        else:
            upload = self.query["uploadId"][0]
            parts = sorted(self._path.parent.glob(f"{self._path.name}.{upload}.part*"))
            _write(self._path, b"".join(part.read_bytes() for part in parts))
            for part in parts:
                part.unlink()
            text = "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
        self._answer(200, text.encode(), Content_Type="application/xml")

    def _delete(self, _):
        self._path.unlink(missing_ok=True)
        self._answer(204)


def _write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.part")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def copy_store(path, folder, bucket="bucket", name=None):
    """Copy a local store into a bucket; return its address."""
    name = name or Path(path).name
    shutil.copytree(path, Path(folder) / bucket / name)
    return f"s3://{bucket}/{name}"


def main():
    _Handler.state = _State(Path(sys.argv[1]))
    ThreadingHTTPServer.request_queue_size = 256
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
