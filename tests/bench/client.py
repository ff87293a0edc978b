"""An engine as the benchmark drives it: HTTP over its unix socket, and what its processes take of the memory."""
import http.client, json, os, re, socket, threading, time

MB = 1_000_000


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=300, blocksize=1 << 20)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(300)
        self.sock.connect(self.path)


class Engine:
    """NAME=SOCKET=PID: what it is called, where it listens, the root of its processes."""

    def __init__(self, text):
        self.name, self.path, pid = text.split("=")
        self.pid, self.local, self.ids, self.image = int(pid), threading.local(), set(), ""

    def dial(self):
        connection = Connection(self.path)
        connection.connect()
        return connection.sock

    def request(self, connection, method, path, body=None, headers=None):
        headers = dict(headers or {})
        if isinstance(body, dict):
            body, headers["Content-Type"] = json.dumps(body), "application/json"
        elif body is not None:
            headers["Content-Type"] = "application/x-tar"
        connection.request(method, "/v1.41" + path, body, headers)
        answer = connection.getresponse()
        if answer.status >= 400:
            raise RuntimeError(f"{self.name}: {method} {path}: {answer.status} {answer.read(300)!r}")
        return answer

    def call(self, method, path, body=None):
        """One request on this thread's connection, which stays open; the whole answer."""
        if not hasattr(self.local, "connection"):
            self.local.connection = Connection(self.path)
        try:
            return self.request(self.local.connection, method, path, body).read()
        except BaseException:
            self.local.connection.close()
            raise

    def open(self, method, path, body=None, upgrade=False):
        """A request on a connection of its own, whose answer is a stream to be read."""
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"} if upgrade else {"Connection": "close"}
        return self.request(Connection(self.path), method, path, body, headers)

    def load(self, archive):
        with open(archive, "rb") as file:
            self.call("POST", "/images/load?quiet=1", file.read())
        # Podman gives a short name another meaning.
        self.image = json.loads(self.call("GET", "/images/json"))[0]["RepoTags"][0]

    def create(self, command, config=None, **host):
        body = {"Image": self.image, "Cmd": command, "HostConfig": host, **(config or {})}
        container = json.loads(self.call("POST", "/containers/create", body))["Id"]
        self.ids.add(container)
        return container

    def start(self, container):
        self.call("POST", f"/containers/{container}/start")

    def running(self, command=("sleep", "1000")):
        container = self.create(list(command))
        self.start(container)
        return container

    def wait(self, container):
        return json.loads(self.call("POST", f"/containers/{container}/wait"))["StatusCode"]

    def remove(self, container):
        self.call("DELETE", f"/containers/{container}?force=1&v=1")
        self.ids.discard(container)

    def cycle(self, **host):
        container = self.create(["true"], **host)
        self.start(container)
        code = self.wait(container)
        self.remove(container)
        if code:
            raise RuntimeError(f"{self.name}: true exited with {code}")

    def clean(self):
        for container in list(self.ids):
            self.remove(container)

    def memory(self):
        """Proportional set size in MB of the engine's processes: its tree, and what names one of its containers on
        its command line (shims); without what runs in the containers."""
        children, texts, todo = {}, {}, [self.pid]
        home = os.readlink(f"/proc/{self.pid}/ns/pid")
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                with open(f"/proc/{pid}/stat") as file:
                    parent = int(file.read().rsplit(")", 1)[1].split()[1])
                with open(f"/proc/{pid}/cmdline") as file:
                    text = file.read()
                if os.readlink(f"/proc/{pid}/ns/pid") != home:
                    continue
            except OSError:
                continue
            children.setdefault(parent, []).append(pid)
            texts[pid] = text
            if any(container in text for container in self.ids):
                todo.append(pid)
        seen, total = set(), 0
        while todo:
            pid = todo.pop()
            if pid in seen or pid not in texts:
                continue
            seen.add(pid)
            todo += children.get(pid, [])
            try:
                with open(f"/proc/{pid}/smaps_rollup") as file:
                    total += int(re.search(r"^Pss:\s+(\d+)", file.read(), re.M)[1]) * 1024
            except OSError:
                pass
        return total / MB


def drain(answer):
    """Reads a stream to its end without decoding it, which would be what takes the time; bytes on the wire."""
    buffer, total, tail = memoryview(bytearray(1 << 20)), 0, b""
    length = answer.length
    while count := answer.fp.readinto1(buffer):
        total += count
        tail = (tail + bytes(buffer[max(0, count - 7):count]))[-7:]
        if answer.chunked and tail == b"\r\n0\r\n\r\n" or length and total >= length:
            break
    answer.close()
    return total


def clock(call, *args, **kw):
    """Milliseconds that a call takes."""
    start = time.perf_counter()
    call(*args, **kw)
    return (time.perf_counter() - start) * 1e3
