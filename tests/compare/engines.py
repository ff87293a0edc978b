"""Two engines to compare, each in a network and mount namespace and on a data root of its own, and a client that keeps
every answer."""
import contextlib, glob, http.client, json, os, shutil, signal, socket, subprocess, sys, tempfile, time, urllib.parse

ENTER = 'ip link set lo up; mount -t tmpfs run /run; exec "$@"'
# Longer than any answer takes; what has not ended by then is told as a stream that goes on.
PATIENCE = 20


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path, timeout=PATIENCE):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Answer:
    """One answer: `json` is its body where that is JSON, else None."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body
        try:
            self.json = json.loads(body)
        except ValueError:
            self.json = None

    @property
    def lines(self):
        """The objects of a stream of JSON."""
        return [json.loads(line) for line in self.body.decode().splitlines() if line]


class Engine:
    """A running engine. Everything that is asked of it through `ask` is kept in `seen`, as (what was asked, answer)."""

    def __init__(self, name, program, dir):
        self.name, self.socket, self.root = name, f"{dir}/{name}.sock", f"{dir}/{name}"
        self.log, self.seen, self.names, self.wait = f"{dir}/{name}.log", [], {}, 0
        with open(f"{dir}/{name}.json", "w") as config:
            config.write("{}")
        command = [program, "--data-root", self.root, "--exec-root", f"/run/{name}", "--pidfile", f"{dir}/{name}.pid",
                   "--config-file", f"{dir}/{name}.json", "-H", f"unix://{self.socket}"]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh",
                                             *command], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.call("GET", "/_ping").status == 200:
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{name} does not come up:\n{open(self.log).read()}")
            time.sleep(0.05)

    def stop(self):
        self.clean()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def clean(self):
        """Removes containers, volumes and images without a name, unseen."""
        for item in self.call("GET", "/containers/json?all=1").json or []:
            if self.call("DELETE", f"/containers/{item['Id']}?force=1&v=1").status == 409:
                self.call("POST", f"/containers/{item['Id']}/unpause")
                self.call("DELETE", f"/containers/{item['Id']}?force=1&v=1")
        for item in (self.call("GET", "/volumes").json or {}).get("Volumes") or []:
            self.call("DELETE", f"/volumes/{item['Name']}?force=1")
        self.call("POST", "/images/prune")

    def call(self, method, path, body=None, headers=None, timeout=PATIENCE):
        """One request, as it stands. A body that is no bytes goes as JSON. Headers of None are not sent."""
        connection = Connection(self.socket, timeout)
        wanted = {"Host": "localhost"}
        if body is not None:
            if not isinstance(body, bytes):
                body, wanted["Content-Type"] = json.dumps(body).encode(), "application/json"
            wanted["Content-Length"] = str(len(body))
        elif method in ("POST", "PUT"):
            wanted["Content-Length"] = "0"
        wanted.update(headers or {})
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for key, value in wanted.items():
                if value is not None:
                    connection.putheader(key, value)
            connection.endheaders()
            with contextlib.suppress(BrokenPipeError):
                if body:
                    connection.send(body)
            response = connection.getresponse()
            # By its name a 101 has no body for the library; what follows is read all the same.
            source = response.fp if response.status == 101 else response
            text, until = b"", time.monotonic() + timeout
            while chunk := source.read1(1 << 16):
                text += chunk
                if time.monotonic() > until:
                    raise TimeoutError
            headers = {key.lower(): value for key, value in response.headers.items()}
            return Answer(response.status, headers, text)
        except (TimeoutError, http.client.HTTPException, ConnectionError) as error:
            return Answer(type(error).__name__, {}, b"")
        finally:
            connection.close()

    def ask(self, method, path, body=None, headers=None, version="1.41", timeout=PATIENCE, only=None, label=None):
        """As `call`, below a version's prefix, and kept. `only` picks what is compared of the JSON."""
        answer = self.call(method, f"/v{version}{path}" if version else path, body, headers, timeout)
        shown = answer
        if only is not None and answer.status in (200, 201):
            shown = Answer(answer.status, answer.headers, json.dumps(only(answer)).encode())
        text = "" if body is None else " " + (repr(body) if isinstance(body, bytes) else json.dumps(body))
        self.seen.append((label or f"{method} {version and 'v' + version or ''}{path}{text if len(text) < 300 else ' …'}", shown))
        return answer

    def get(self, path, **more):
        return self.ask("GET", path, **more)

    def post(self, path, body=None, **more):
        return self.ask("POST", path, body, **more)

    def delete(self, path, **more):
        return self.ask("DELETE", path, **more)

    def note(self, what, value):
        """Keeps a value that is no answer."""
        self.seen.append((what, Answer("noted", {}, json.dumps(value).encode())))

    def create(self, name, version="1.41", **body):
        """Creates a container of busybox that sleeps, unseen; what fails is told."""
        body = {"Image": "busybox", "Cmd": ["sleep", "1000"], **body}
        answer = self.call("POST", f"/v{version}/containers/create?name={name}", body)
        assert answer.status == 201, (self.name, name, answer.status, answer.body)
        self.names[answer.json["Id"]] = name
        return answer.json["Id"]

    def run(self, name, **body):
        """Creates and starts one."""
        id = self.create(name, **body)
        answer = self.call("POST", f"/containers/{name}/start")
        assert answer.status == 204, (self.name, name, answer.status, answer.body)
        return id

    def ended(self, name, code=0, **body):
        """One that has run and ended."""
        id = self.run(name, Cmd=["sh", "-c", f"echo out; echo err >&2; exit {code}"], **body)
        self.call("POST", f"/containers/{name}/wait")
        return id

    def exec(self, name, **body):
        """Makes an exec, unseen; its id."""
        answer = self.call("POST", f"/containers/{name}/exec", {"Cmd": ["true"], **body})
        assert answer.status == 201, (self.name, name, answer.status, answer.body)
        self.names[answer.json["Id"]] = f"exec{len(self.names)}"
        return answer.json["Id"]

    def filters(self, **filters):
        """A query string."""
        return "filters=" + urllib.parse.quote(json.dumps(filters))


@contextlib.contextmanager
def engines(programs, image):
    """Engines by name, with the image loaded; all is gone afterwards."""
    dir, running = tempfile.mkdtemp(prefix="berth-compare.", dir=os.environ.get("COMPARE_DIR")), []
    try:
        for name, program in programs.items():
            running.append(Engine(name, program, dir))
        for engine in running:
            with open(image, "rb") as archive:
                answer = engine.call("POST", "/images/load", archive.read(), {"Content-Type": "application/x-tar"})
            assert answer.status == 200, (engine.name, answer.body)
        yield running
    finally:
        for engine in running:
            engine.stop()
        # The cgroup that cases ask for as a parent.
        for left in glob.glob("/sys/fs/cgroup/**/berth-compare", recursive=True):
            with contextlib.suppress(OSError):
                os.rmdir(left)
        shutil.rmtree(dir, ignore_errors=True)
