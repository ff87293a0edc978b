"""Logs, attach and exec: output framed and raw, followed and read back, input and its end."""

import calendar
import socket
import ssl
import struct
import time

from docker.utils.socket import consume_socket_output, demux_adaptor, frames_iter

from case import PATIENCE, Case, quick


def raw(handle):
    """The socket below what docker-py gives, for a plain one and one with TLS."""
    return getattr(handle, "_sock", handle)


def read_all(handle):
    """All bytes until the peer closes."""
    sock, data = raw(handle), b""
    sock.settimeout(PATIENCE)
    while True:
        try:
            chunk = sock.recv(65536)
        except ssl.SSLZeroReturnError:
            # Both sides have told that they are through.
            chunk = b""
        if not chunk:
            return data
        data += chunk


def frames(data):
    """The frames of multiplexed output: pairs of stream number and bytes."""
    while data:
        number, size = struct.unpack(">BxxxL", data[:8])
        yield number, data[8 : 8 + size]
        data = data[8 + size :]


def joined(data, number):
    return b"".join(text for stream, text in frames(data) if stream == number)


def unix(stamp):
    """A stamp of the log as the API takes it, to the nanosecond."""
    seconds = calendar.timegm(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S"))
    return f"{seconds}.{stamp[20:29]}"


class Logs(Case):
    @quick
    def test_streams_are_kept_apart_and_in_order(self):
        container = self.ended(["sh", "-c", "echo out; echo err >&2; printf tail"])
        self.assertEqual(container.logs(stderr=False), b"out\ntail")
        self.assertEqual(container.logs(stdout=False), b"err\n")
        self.assertEqual(sorted(container.logs().split(b"\n")), [b"err", b"out", b"tail"])

    def logged(self, container, **params):
        """The log, by parameters that docker-py rounds."""
        url = self.api._url("/containers/{0}/logs", container.id)
        return joined(self.api._get(url, params={"stdout": 1, "stderr": 1, **params}).content, 1)

    def test_tail_timestamps_since_and_until(self):
        container = self.ended(["sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done"])
        self.assertEqual(container.logs(tail=2), b"line 4\nline 5\n")
        self.assertEqual(container.logs(tail=0), b"")
        stamped = container.logs(timestamps=True).decode().splitlines()
        stamps = [line.split(" ", 1)[0] for line in stamped]
        self.assertEqual(stamps, sorted(stamps))
        self.assertRegex(stamps[0], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$")
        self.assertEqual(self.logged(container, since=unix(stamps[2])), b"line 3\nline 4\nline 5\n")
        self.assertEqual(self.logged(container, until=unix(stamps[1])), b"line 1\nline 2\n")
        self.assertEqual(self.logged(container, since="4000000000"), b"")
        with self.refused(400, "Bad parameters: you must choose at least one stream"):
            container.logs(stdout=False, stderr=False)

    @quick
    def test_a_follower_gets_every_line_and_the_end(self):
        container = self.start(["sh", "-c", "for i in $(seq 300); do echo $i; done; read x; echo last"], stdin_open=True)
        lines = []
        thread = self.beside(lambda: lines.extend(container.logs(stream=True, follow=True)))
        socket = container.attach_socket(params={"stdin": 1, "stream": 1})
        raw(socket).sendall(b"go\n")
        thread.join(PATIENCE)
        socket.close()
        self.assertEqual(b"".join(lines).split(), [str(n).encode() for n in range(1, 301)] + [b"last"])

    def test_a_terminals_log_is_raw(self):
        container = self.ended(["sh", "-c", "echo a; echo b >&2"], tty=True)
        self.assertEqual(container.logs(), b"a\r\nb\r\n")


class Attaching(Case):
    @quick
    def test_input_reaches_the_program_and_its_end_too(self):
        container = self.create(["sh", "-c", "cat; echo end >&2"], stdin_open=True)
        self.api.inspect_container(container.id)
        handle = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        container.start()
        sock = raw(handle)
        text = b"some line\n" * 10_000
        # Not over TLS: see `_close_half`.
        encrypted = isinstance(sock, ssl.SSLSocket)
        sender = self.beside(lambda: (sock.sendall(text), encrypted or self._close_half(sock)))
        # One more end of file is needed, as the container's stdin was not made to close with its client.
        data = b""
        sock.settimeout(PATIENCE)
        while len(joined_so_far(data)) < len(text):
            data += sock.recv(65536)
        sender.join()
        self.assertEqual(joined_so_far(data), text)
        handle.close()

    def test_what_was_logged_before_comes_whole_each_time(self):
        container = self.ended(["sh", "-c", "echo before"])
        for _ in range(20):
            # The head of the answer is read through a buffer, and what follows it past that buffer.
            self.assertEqual(container.attach(logs=True, stream=False), b"before\n")

    def test_stdin_once_ends_with_the_client(self):
        config = self.api.create_container_config(
            "busybox:latest", ["sh", "-c", "wc -c; echo end >&2"], stdin_open=True, labels=self.labels()
        )
        config["StdinOnce"] = True
        container = self.docker.containers.get(self.api.create_container_from_config(config)["Id"])
        handle = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        container.start()
        sock = raw(handle)
        sock.sendall(b"12345")
        self._close_half(sock)
        data = read_all(handle)
        handle.close()
        self.assertEqual((joined(data, 1), joined(data, 2)), (b"5\n", b"end\n"))

    @staticmethod
    def _close_half(sock):
        """Ends what is sent and goes on receiving; over TLS only while nothing is to come."""
        if not isinstance(sock, ssl.SSLSocket):
            sock.shutdown(socket.SHUT_WR)
            return
        # Python sends its own end and then waits for the other's, unless it may not wait.
        sock.settimeout(0)
        try:
            sock.unwrap()
        except ssl.SSLWantReadError:
            pass

    def test_output_streams_to_several_clients(self):
        container = self.create(["sh", "-c", "read x; seq 1000"], stdin_open=True)
        handles = [container.attach_socket(params={"stdout": 1, "stream": 1}) for _ in range(3)]
        container.start()
        control = container.attach_socket(params={"stdin": 1, "stream": 1})
        raw(control).sendall(b"go\n")
        expected = "".join(f"{n}\n" for n in range(1, 1001)).encode()
        for handle in handles:
            self.assertEqual(joined(read_all(handle), 1), expected)
            handle.close()
        control.close()

    def test_a_terminal_has_a_size_that_can_be_changed(self):
        container = self.start(["sh", "-c", "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done"], tty=True)
        self.eventually("the trap", lambda: b"ready" in container.logs())
        container.resize(height=31, width=91)
        container.wait(timeout=PATIENCE)
        self.assertIn(b"31 91", container.logs())


def joined_so_far(data):
    """What whole and cut frames hold of stdout."""
    out = b""
    while len(data) >= 8:
        number, size = struct.unpack(">BxxxL", data[:8])
        out += data[8 : 8 + size] if number == 1 else b""
        data = data[8 + size :]
    return out


class Execs(Case):
    @quick
    def test_output_and_exit_code(self):
        box = self.start(environment={"WHO": "me"}, working_dir="/tmp")
        self.assertEqual(box.exec_run(["sh", "-c", "echo $WHO $PWD; exit 5"]), (5, b"me /tmp\n"))
        self.assertEqual(box.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True), (0, (b"out\n", b"err\n")))
        self.assertEqual(
            box.exec_run("id -u", user="nobody", environment={"A": "b"}, workdir="/etc").output, b"65534\n"
        )
        self.assertEqual(box.exec_run(["sh", "-c", "echo $A $PWD"], environment={"A": "b"}, workdir="/etc").output, b"b /etc\n")

    @quick
    def test_output_streams_as_it_comes(self):
        box = self.start()
        code, stream = box.exec_run(["sh", "-c", "seq 2000; echo end >&2"], stream=True, demux=True)
        self.assertIsNone(code)
        out, err = b"", b""
        for part_of_out, part_of_err in stream:
            out += part_of_out or b""
            err += part_of_err or b""
        self.assertEqual(out.split(), [str(n).encode() for n in range(1, 2001)])
        self.assertEqual(err, b"end\n")

    def test_a_socket_carries_both_ways(self):
        box = self.start()
        _, handle = box.exec_run(["sh", "-c", "read x; echo got $x; echo err >&2"], stdin=True, socket=True)
        raw(handle).sendall(b"this\n")
        out, err = consume_socket_output(
            (demux_adaptor(*frame) for frame in frames_iter(handle, tty=False)), demux=True
        )
        handle.close()
        self.assertEqual((out, err), (b"got this\n", b"err\n"))

    def test_a_terminal(self):
        box = self.start()
        self.assertEqual(box.exec_run(["sh", "-c", "tty; echo x >&2"], tty=True).output, b"/dev/pts/0\r\nx\r\n")

    def test_the_start_says_whether_output_is_framed(self):
        box = self.start()
        made = self.api.exec_create(box.id, ["sh", "-c", "read x; tty; echo $x >&2"], stdin=True, tty=True)
        handle = self.api.exec_start(made, socket=True)
        raw(handle).sendall(b"said\n")
        # The terminal echoes what is typed.
        self.assertEqual(joined(read_all(handle), 1), b"said\r\n/dev/pts/0\r\nsaid\r\n")
        handle.close()
        made = self.api.exec_create(box.id, ["sh", "-c", "echo out; sleep 0.5; echo err >&2"])
        self.assertEqual(self.api.exec_start(made, tty=True), b"out\nerr\n")

    def test_inspect_tells_how_it_goes(self):
        box = self.start()
        made = self.api.exec_create(box.id, ["sh", "-c", "read x; exit 3"], stdin=True, user="root")["Id"]
        before = self.api.exec_inspect(made)
        self.assertEqual((before["Running"], before["ExitCode"], before["ContainerID"]), (False, None, box.id))
        self.assertEqual(before["ProcessConfig"]["arguments"], ["-c", "read x; exit 3"])
        handle = self.api.exec_start(made, socket=True)
        self.eventually("it to run", lambda: self.api.exec_inspect(made)["Running"])
        self.assertIn(made, self.inspect(box)["ExecIDs"])
        raw(handle).sendall(b"x\n")
        read_all(handle)
        handle.close()
        self.eventually("its end", lambda: self.api.exec_inspect(made)["ExitCode"] == 3)
        with self.refused(409, "has already run"):
            self.api.exec_start(made)
        with self.refused(404, "No such exec instance: nothing"):
            self.api.exec_inspect("nothing")

    def test_what_cannot_run_is_told(self):
        box = self.start()
        code, output = box.exec_run(["nope"])
        self.assertEqual(code, 127)
        self.assertIn(b"executable file not found", output)
        self.assertEqual(box.exec_run(["/etc/passwd"]).exit_code, 126)

    def test_a_detached_one_runs_on(self):
        box = self.start()
        made = self.api.exec_create(box.id, ["sh", "-c", "sleep 0.2; echo x > /made"])["Id"]
        self.api.exec_start(made, detach=True)
        self.eventually("the file", lambda: box.exec_run(["cat", "/made"]).output == b"x\n")

    def test_privileges_of_its_own(self):
        box = self.start()
        self.assertNotEqual(box.exec_run(["mount", "-t", "tmpfs", "x", "/mnt"]).exit_code, 0)
        self.assertEqual(box.exec_run(["sh", "-c", "mkdir -p /mnt && mount -t tmpfs x /mnt"], privileged=True).exit_code, 0)
