"""Files in and out of containers, and containers as images: archive, export, changes, commit."""

import io
import os
import tarfile

from case import Case, quick

DIRECTORY = 1 << 31  # Go's os.ModeDir


def archive(**files):
    """A tar archive of regular files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o640
            tar.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def opened(chunks):
    return tarfile.open(fileobj=io.BytesIO(b"".join(chunks)))


class Archives(Case):
    @quick
    def test_files_go_in_and_come_out_of_running_and_stopped_containers(self):
        container = self.create(["sh", "-c", "cat /tmp/one; sleep 1000"])
        big = bytes(range(256)) * 8192
        self.assertTrue(container.put_archive("/tmp", archive(one=b"first\n", big=big)))
        container.start()
        self.eventually("it to read the file", lambda: container.logs() == b"first\n")
        self.assertTrue(container.put_archive("/tmp", archive(two=b"second")))
        self.assertEqual(container.exec_run(["cat", "/tmp/two"]).output, b"second")
        chunks, stat = container.get_archive("/tmp")
        self.assertEqual((stat["name"], stat["mode"] & DIRECTORY), ("tmp", DIRECTORY))
        tar = opened(chunks)
        self.assertEqual(tar.extractfile("tmp/big").read(), big)
        self.assertEqual(tar.getmember("tmp/two").mode, 0o640)
        chunks, stat = container.get_archive("/tmp/one")
        self.assertEqual((stat["name"], stat["size"], stat["linkTarget"]), ("one", 6, ""))
        self.assertEqual(opened(chunks).extractfile("one").read(), b"first\n")

    def test_what_is_not_there_or_no_directory_is_refused(self):
        container = self.create()
        with self.refused(404, "Could not find the file /nope in container"):
            container.get_archive("/nope")
        with self.refused(404, "Could not find the file /nope in container"):
            container.put_archive("/nope", archive(x=b""))
        with self.refused(400, "extraction point is not a directory"):
            container.put_archive("/etc/passwd", archive(x=b""))

    def test_a_root_that_is_read_only_takes_nothing(self):
        container = self.create(read_only=True)
        with self.refused(403, "container rootfs is marked read-only"):
            container.put_archive("/tmp", archive(x=b""))

    def test_links_of_the_container_do_not_lead_out_of_it(self):
        container = self.ended(["ln", "-s", "/etc", "/tmp/out"])
        self.assertTrue(container.put_archive("/tmp/out", archive(marked=b"inside")))
        chunks, _ = container.get_archive("/etc/marked")
        self.assertEqual(opened(chunks).extractfile("marked").read(), b"inside")
        self.assertFalse(os.path.exists("/etc/marked"))


class Images(Case):
    @quick
    def test_changes_export_and_commit(self):
        container = self.ended(["sh", "-c", "echo new > /added; rm /etc/group; echo x >> /etc/passwd"])
        changes = {item["Path"]: item["Kind"] for item in container.diff()}
        self.assertEqual(changes, {"/added": 1, "/etc": 0, "/etc/group": 2, "/etc/passwd": 0})
        tar = opened(container.export())
        self.assertEqual(tar.extractfile("added").read(), b"new\n")
        self.assertNotIn("etc/group", tar.getnames())
        image = container.commit(
            self.name(), "one", message="said", author="me", changes=["ENV A=b", 'CMD ["cat", "/added"]']
        )
        self.addCleanup(self.docker.images.remove, image.id, force=True)
        self.assertEqual(image.attrs["Comment"], "said")
        self.assertEqual(self.run_once(None, image=f"{self.name()}:one"), "new\n")

    def test_a_commit_is_refused_where_its_changes_make_no_sense(self):
        container = self.create()
        with self.refused(400, "is not a valid change command"):
            container.commit(self.name(), changes=["NOPE x"])
