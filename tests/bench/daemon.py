"""A hostd of the benchmark's own, in a network and mount namespace of its own, its run-time state on a tmpfs."""
import contextlib, http.client, os, signal, subprocess, sys, tempfile, time
from client import Engine

ENTER = 'ip link set lo up; mount -t tmpfs run /run; exec "$@"'


class Daemon:
    def __init__(self, hostd, dir):
        self.socket, self.log = f"{dir}/sock", f"{dir}/log"
        self.command = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh", hostd, "--data-root",
                        f"{dir}/h", "--exec-root", "/run/hostd", "--pidfile", f"{dir}/pid", "-H", f"unix://{self.socket}"]

    def up(self):
        """Starts it; milliseconds until it answers."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)
        start = time.perf_counter()
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        self.engine = Engine(f"hostd={self.socket}={self.process.pid}")
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.engine.call("GET", "/_ping")
                return (time.perf_counter() - start) * 1e3
            if self.process.poll() is not None:
                sys.exit(open(self.log).read())
            time.sleep(0.002)

    def down(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait()


@contextlib.contextmanager
def daemon(hostd):
    """One that runs, and is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="berth-bench.", dir=os.environ.get("BENCH_DIR")) as dir:
        found = Daemon(hostd, dir)
        found.up()
        try:
            yield found
        finally:
            found.engine.clean()
            found.down()
