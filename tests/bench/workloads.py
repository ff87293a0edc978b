"""What is measured: each workload takes one sample of one engine, a value for each of its rows."""
import contextlib, io, json, os, queue, re, select, socket, statistics, tarfile, threading, time, urllib.parse
from concurrent.futures import ThreadPoolExecutor
from client import MB, Connection, clock, drain


class Row:
    """A line of the table. `target`: what the ratio to dockerd is to reach (at most for times, at least for rates), or
    with `limit` what the value itself may be at most."""

    def __init__(self, name, target=None, limit=None):
        self.name, self.target, self.limit = name, target, limit
        self.rate = name.endswith("/s")

    def reached(self, value, ratio):
        if self.limit is not None:
            return value < self.limit
        if self.target is None or ratio is None:
            return None
        return ratio >= self.target if self.rate else ratio <= self.target

    def wanted(self):
        if self.limit is not None:
            return f"< {self.limit:g}"
        if self.target is None:
            return ""
        return f"{'>=' if self.rate else '<='} {self.target:.3g}"


class Workload:
    rows, rounds, warm_up = [], 3, 0

    def setup(self, engine):
        """Before the first round."""

    def sample(self, engine):
        raise NotImplementedError


PING = b"GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n"


def ping_answered(sock):
    data = sock.recv(8192)
    while b"\r\n\r\n" not in data:
        data += sock.recv(8192)
    head, body = data.split(b"\r\n\r\n", 1)
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"ping: {head[:100]!r}")
    length = re.search(rb"content-length: *(\d+)", head, re.I)
    while len(body) < int(length[1]) if length else not body.endswith(b"0\r\n\r\n"):
        body += sock.recv(8192)


class Ping(Workload):
    rows = [Row("ping on 1 connection, requests/s", 1), Row("ping on 16 connections, requests/s", 1)]
    rounds, warm_up = 5, 1

    def sample(self, engine):
        return [self.pings(engine, 1), self.pings(engine, 16)]

    @staticmethod
    def pings(engine, count):
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(engine.dial()) for _ in range(count)]
            if count == 1:
                return Ping.one_after_the_other(socks[0])
            # One thread with epoll: sixteen of Python's would measure Python.
            by_number, poll = {sock.fileno(): sock for sock in socks}, select.epoll()
            for number, sock in by_number.items():
                poll.register(number, select.EPOLLIN)
                sock.sendall(PING)
            done, start = 0, time.perf_counter()
            while time.perf_counter() - start < 1:
                for number, _ in poll.poll(5):
                    ping_answered(by_number[number])
                    by_number[number].sendall(PING)
                    done += 1
            return done / (time.perf_counter() - start)

    @staticmethod
    def one_after_the_other(sock):
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < 1:
            sock.sendall(PING)
            ping_answered(sock)
            done += 1
        return done / (time.perf_counter() - start)


class Run(Workload):
    rows = [Row("create+start+wait+remove, ms", 1 / 10), Row("the same without network, ms")]
    rounds, warm_up = 20, 1

    def sample(self, engine):
        return [clock(engine.cycle), clock(engine.cycle, NetworkMode="none")]


class Parallel(Workload):
    rows = [Row("containers, 8 at a time, containers/s", 10)]

    def sample(self, engine):
        with ThreadPoolExecutor(8) as pool:
            spent = clock(lambda: list(pool.map(lambda _: engine.cycle(), range(40))))
        return [40e3 / spent]


class Exec(Workload):
    rows = [Row("exec, ms", 1 / 6)]
    rounds, warm_up = 30, 1

    def setup(self, engine):
        engine.container = engine.running()

    def sample(self, engine):
        return [clock(self.once, engine)]

    @staticmethod
    def once(engine):
        body = {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}
        exec_id = json.loads(engine.call("POST", f"/containers/{engine.container}/exec", body))["Id"]
        drain(engine.open("POST", f"/exec/{exec_id}/start", {"Detach": False, "Tty": False}, upgrade=True))
        if json.loads(engine.call("GET", f"/exec/{exec_id}/json"))["ExitCode"] != 0:
            raise RuntimeError(f"{engine.name}: exec failed")


class Stop(Workload):
    rows = [Row("kill to the end of a wait, ms", 1 / 10), Row("stop, ms", 1 / 10)]
    rounds, warm_up = 10, 1

    def sample(self, engine):
        killed, ended = engine.running(), []
        waiter = threading.Thread(target=lambda: (engine.wait(killed), ended.append(time.perf_counter())))
        waiter.start()
        time.sleep(0.3)
        start = time.perf_counter()
        engine.call("POST", f"/containers/{killed}/kill")
        waiter.join()
        engine.remove(killed)
        stopped = engine.running(["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"])
        time.sleep(0.3)
        stop = clock(engine.call, "POST", f"/containers/{stopped}/stop?t=10")
        engine.remove(stopped)
        return [(ended[0] - start) * 1e3, stop]


class Events(Workload):
    """How long after the answer of a start its event comes: below zero is before it."""
    rows = [Row("event after the start's answer, ms", limit=0.5)]
    rounds, warm_up = 20, 1

    def setup(self, engine):
        connection, engine.seen = Connection(engine.path), queue.Queue()
        connection.connect()
        filters = urllib.parse.quote(json.dumps({"type": ["container"], "event": ["start"]}))

        def follow():  # a thread: some engines send the head along with the first event
            with contextlib.suppress(OSError):
                answer = engine.request(connection, "GET", f"/events?filters={filters}")
                while line := answer.readline():
                    engine.seen.put((time.perf_counter(), line.decode()))

        threading.Thread(target=follow, daemon=True).start()
        time.sleep(1)

    def sample(self, engine):
        container = engine.create(["true"])
        engine.start(container)
        answered = time.perf_counter()
        while True:
            at, line = engine.seen.get(timeout=10)
            if container in line:
                break
        engine.wait(container)
        engine.remove(container)
        return [(at - answered) * 1e3]


class Density(Workload):
    rows = [Row("memory idle, MB", 1 / 8), Row("memory with 50 containers, MB", 1 / 10),
            Row("memory per container, MB", limit=0.35), Row("list of 50 containers, ms", 1 / 4)]
    rounds, count = 1, 50

    def sample(self, engine):
        time.sleep(3)
        idle = engine.memory()
        for _ in range(self.count):
            engine.running()
        time.sleep(3)
        full = engine.memory()
        listed = statistics.median(clock(self.list_all, engine, self.count) for _ in range(50))
        engine.clean()
        return [idle, full, (full - idle) / self.count, listed]

    @staticmethod
    def list_all(engine, count):
        found = engine.call("GET", "/containers/json?all=1").count(b'"ImageID"')
        if found < count:
            raise RuntimeError(f"{engine.name}: lists {found} containers")


class LongList(Workload):
    rows = [Row("list of 1,000 containers, ms", limit=20)]
    rounds, count = 5, 1000

    def setup(self, engine):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: engine.create(["true"]), range(self.count)))

    def sample(self, engine):
        return [statistics.median(clock(Density.list_all, engine, self.count) for _ in range(5))]


# Prints that many times the 10 MB of 100-byte lines that the image has.
PRINT = "i=0; while [ $i -lt {} ]; do cat /lines; i=$((i+1)); done"
AMOUNT = 200


class Logs(Workload):
    rows = [Row("logs written, MB/s", 5), Row("logs read, MB/s", 20)]

    def sample(self, engine):
        container = engine.create(["sh", "-c", PRINT.format(AMOUNT // 10)])
        written = clock(lambda: (engine.start(container), engine.wait(container)))
        read = clock(self.read, engine, container)
        engine.remove(container)
        return [AMOUNT * 1e3 / written, AMOUNT * 1e3 / read]

    @staticmethod
    def read(engine, container):
        if drain(engine.open("GET", f"/containers/{container}/logs?stdout=1")) < AMOUNT * MB:
            raise RuntimeError(f"{engine.name}: logs are incomplete")


class Attach(Workload):
    rows, rounds = [Row("attach, MB/s", 3)], 5

    def sample(self, engine):
        command = ["sh", "-c", PRINT.format(AMOUNT // 10)]
        container = engine.create(command, {"AttachStdout": True}, LogConfig={"Type": "none"})
        stream = engine.open("POST", f"/containers/{container}/attach?stream=1&stdout=1", upgrade=True)
        spent = clock(self.read, engine, container, stream)
        engine.remove(container)
        return [AMOUNT * 1e3 / spent]

    @staticmethod
    def read(engine, container, stream):
        engine.start(container)
        if drain(stream) < AMOUNT * MB:
            raise RuntimeError(f"{engine.name}: the stream is incomplete")


def tar(files):
    """A tar of (name, content)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


class Copy(Workload):
    """A large file into a running container, in place of the one before, and out of it again."""
    rows, rounds, warm_up = [Row("cp in, MB/s", 3), Row("cp out, MB/s", 3)], 5, 1
    name, amount = "blob", AMOUNT

    def __init__(self):
        self.archive = tar(self.files())

    def files(self):
        return [(self.name, os.urandom(MB) * AMOUNT)]

    def setup(self, engine):
        engine.container = engine.running()

    def sample(self, engine):
        path = f"/containers/{engine.container}/archive?path=/tmp"
        os.sync()
        put = clock(engine.call, "PUT", path, self.archive)
        got = clock(self.read, engine, f"{path}/{self.name}")
        return [self.amount * 1e3 / put, self.amount * 1e3 / got]

    def read(self, engine, path):
        if drain(engine.open("GET", path)) < self.size():
            raise RuntimeError(f"{engine.name}: the archive is incomplete")

    def size(self):
        return AMOUNT * MB


class CopySmall(Copy):
    """Many small files into a fresh container, and out of it again. Nothing is removed before the end: ext4 passes over
    the inodes that were in use a moment ago, one by one, which takes longer than all else."""
    rows = [Row("cp of small files in, files/s"), Row("cp of small files out, files/s")]
    name, amount = "tree", 5000

    def files(self):
        return [(f"tree/{n // 100}/{n}", os.urandom(2000)) for n in range(self.amount)]

    def setup(self, engine):
        pass

    def sample(self, engine):
        super().setup(engine)
        return super().sample(engine)

    def size(self):
        return self.amount * 2560


# Memory first, while the engines' heaps are as small as they get.
ALL = {"memory": Density, "ping": Ping, "run": Run, "parallel": Parallel, "exec": Exec, "stop": Stop, "events": Events,
       "logs": Logs, "attach": Attach, "copy": Copy, "small": CopySmall, "list": LongList}
