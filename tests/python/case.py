"""What the test cases share: a client, names and a label of their own, and a clean-up that leaves nothing."""

import threading
import time
import unittest
import uuid

import docker

from client import connect

IMAGE = "busybox:latest"
PATIENCE = 60


def quick(test):
    """Marks a test for machines on which everything is slow: `run --quick` runs only these."""
    test.quick = True
    return test


class Case(unittest.TestCase):
    """Containers, volumes and images made through it are gone after the test."""

    def setUp(self):
        self.docker = connect()
        self.api = self.docker.api
        self.addCleanup(self.docker.close)
        self.mark = f"t{uuid.uuid4().hex[:12]}"
        self.addCleanup(self._clean_up)

    def _clean_up(self):
        for container in self.docker.containers.list(all=True, filters={"label": f"suite={self.mark}"}, ignore_removed=True):
            try:
                container.remove(force=True, v=True)
            except docker.errors.NotFound:
                pass
        for volume in self.docker.volumes.list(filters={"label": f"suite={self.mark}"}):
            volume.remove(force=True)

    def name(self, suffix=""):
        """A name that no other test has."""
        return f"{self.mark}{suffix}"

    def labels(self, **more):
        """Labels by which the clean-up finds what the test has made."""
        return {"suite": self.mark, **more}

    def options(self, options):
        labels = dict(options.pop("labels", {}))
        return {"labels": self.labels(**labels), **options}

    def create(self, command=None, image=IMAGE, **options):
        """A container that is not started."""
        return self.docker.containers.create(image, command, **self.options(options))

    def start(self, command=("sleep", "1000"), image=IMAGE, **options):
        """A container that runs."""
        return self.docker.containers.run(image, command, detach=True, **self.options(options))

    def run_once(self, command, image=IMAGE, **options):
        """What a container prints that runs to its end and is removed."""
        return self.docker.containers.run(image, command, remove=True, **self.options(options)).decode()

    def shell(self, script, **options):
        """What a shell script prints in a container of its own."""
        return self.run_once(["sh", "-c", script], **options)

    def ended(self, command, **options):
        """A container that has run to its end."""
        container = self.start(command, **options)
        container.wait(timeout=PATIENCE)
        container.reload()
        return container

    def inspect(self, container):
        return self.api.inspect_container(container.id)

    def beside(self, work):
        """Starts `work` on a thread that does not keep the process when the test has failed."""
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def eventually(self, what, ready):
        """Waits until `ready` gives something true."""
        deadline = time.monotonic() + PATIENCE
        while True:
            value = ready()
            if value:
                return value
            if time.monotonic() > deadline:
                self.fail(f"gave up waiting: {what}")
            time.sleep(0.05)

    def refused(self, status, *says):
        """A context in which the engine must refuse with that status and these words."""
        return Refusal(self, status, says)


class Refusal:
    """See `Case.refused`."""

    def __init__(self, case, status, says):
        self.case, self.status, self.says = case, status, says

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if kind is None:
            self.case.fail(f"should be refused with {self.status}")
        if not issubclass(kind, docker.errors.APIError):
            return False
        self.case.assertEqual(error.status_code, self.status, error)
        for words in self.says:
            self.case.assertIn(words, str(error.explanation))
        return True
