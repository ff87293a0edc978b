"""Options of create: each is seen from inside the container, and read back by inspect."""

import json

from docker.types import Mount, Ulimit

from case import Case, quick


class Program(Case):
    @quick
    def test_program_user_directory_and_environment(self):
        out = self.run_once(
            ["-c", "echo $A:$B; pwd; id -u; id -g; hostname"],
            entrypoint=["sh"],
            environment={"A": "1", "B": "two words"},
            working_dir="/made/here",
            user="nobody",
            hostname="box",
        )
        self.assertEqual(out.split("\n"), ["1:two words", "/made/here", "65534", "65534", "box", ""])

    def test_users_by_name_and_number_with_group(self):
        for user, expected in [
            ("1000", "1000:0"),
            ("1000:2000", "1000:2000"),
            ("nobody:1", "65534:1"),
            ("root", "0:0"),
        ]:
            with self.subTest(user):
                self.assertEqual(self.shell("echo $(id -u):$(id -g)", user=user), f"{expected}\n")
        with self.refused(500, "unable to find user nobody-here"):
            self.shell("true", user="nobody-here")

    def test_a_program_that_is_not_there_is_told(self):
        for command, words in [
            (["nope"], 'exec: "nope": executable file not found in $PATH'),
            (["/etc/passwd"], "permission denied"),
            (["/nope"], "no such file or directory"),
        ]:
            container = self.create(command)
            with self.subTest(command), self.refused(400, words):
                container.start()
            self.assertIn(self.inspect(container)["State"]["ExitCode"], (126, 127))

    def test_init_reaps_and_forwards(self):
        self.assertIn("1", self.shell("ps -o pid,comm | head -2", init=True))
        container = self.start(["sleep", "1000"], init=True)
        self.assertTrue(self.inspect(container)["HostConfig"]["Init"])
        container.stop(timeout=20)
        self.assertEqual(container.wait()["StatusCode"], 143)

    def test_a_command_may_be_a_string(self):
        self.assertEqual(self.run_once("echo 'one string'"), "one string\n")


class Files(Case):
    def test_a_volume_driver_is_kept_and_asked_for_when_a_volume_is_made(self):
        made = self.create(volume_driver="nobody-has-this", isolation="default")
        host = self.inspect(made)["HostConfig"]
        self.assertEqual((host["VolumeDriver"], host["Isolation"]), ("nobody-has-this", "default"))
        for volumes in [["/data"], ["some:/data"]]:
            with self.subTest(volumes), self.refused(400, "nobody-has-this"):
                self.create(volume_driver="nobody-has-this", volumes=volumes)

    @quick
    def test_volumes_binds_and_tmpfs(self):
        volume = self.docker.volumes.create(self.name(), labels=self.labels())
        self.shell("echo kept > /data/file", volumes={volume.name: {"bind": "/data", "mode": "rw"}})
        for options in (
            {"volumes": [f"{volume.name}:/data:ro"]},
            {"mounts": [Mount("/data", volume.name, read_only=True)]},
        ):
            out = self.shell("cat /data/file; touch /data/other 2>&1 || true", **options)
            self.assertIn("kept", out)
            self.assertIn("Read-only file system", out)
        out = self.shell(
            "df /t /u | tail -2 | awk '{print $2}'; stat -c %a /u",
            tmpfs={"/t": "size=1m"},
            mounts=[Mount("/u", None, type="tmpfs", tmpfs_size=2 << 20, tmpfs_mode=0o700)],
        )
        self.assertEqual(out.split(), ["1024", "2048", "700"])

    def test_a_volume_starts_with_what_the_image_has_there(self):
        out = self.shell("ls /etc/passwd", mounts=[Mount("/etc", self.name(), labels=self.labels())])
        self.assertEqual(out, "/etc/passwd\n")
        out = self.shell("ls /home", mounts=[Mount("/home", self.name("-none"), no_copy=True, labels=self.labels())])
        self.assertEqual(out, "")

    def test_a_read_only_root(self):
        out = self.shell("touch /x 2>&1 || true; touch /tmp/y && echo fine", read_only=True, tmpfs={"/tmp": ""})
        self.assertIn("Read-only file system", out)
        self.assertIn("fine", out)

    def test_what_does_not_fit_is_refused(self):
        with self.refused(400, "invalid mount config for type \"bind\": bind source path does not exist: /no/such/place"):
            self.create(mounts=[Mount("/x", "/no/such/place", type="bind")])
        with self.refused(400, "Duplicate mount point: /x"):
            self.create(mounts=[Mount("/x", "first"), Mount("/x", "second")])
        with self.refused(400, "mount path must be absolute"):
            self.create(mounts=[Mount("x", "first")])


class Limits(Case):
    @quick
    def test_limits_are_seen_from_inside_and_read_back(self):
        container = self.create(
            ["true"],
            mem_limit="64m",
            memswap_limit="128m",
            mem_reservation="32m",
            cpu_shares=512,
            cpu_period=50000,
            cpu_quota=25000,
            cpuset_cpus="0",
            pids_limit=50,
            oom_score_adj=100,
        )
        host = self.inspect(container)["HostConfig"]
        for field, expected in {
            "Memory": 64 << 20,
            "MemorySwap": 128 << 20,
            "MemoryReservation": 32 << 20,
            "CpuShares": 512,
            "CpuPeriod": 50000,
            "CpuQuota": 25000,
            "CpusetCpus": "0",
            "PidsLimit": 50,
            "OomScoreAdj": 100,
        }.items():
            self.assertEqual(host[field], expected, field)
        script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; nproc; cat /proc/self/oom_score_adj"
        out = self.shell(script, mem_limit="64m", cpuset_cpus="0", oom_score_adj=100)
        self.assertEqual(out.split(), [str(64 << 20), "1", "100"])

    def test_too_little_memory_and_contradictions_are_refused(self):
        for options, words in [
            ({"mem_limit": "1m"}, "Minimum memory limit allowed is 6MB"),
            ({"memswap_limit": "64m"}, "You should always set the Memory limit when using Memoryswap limit"),
            ({"mem_limit": "64m", "memswap_limit": "32m"}, "Minimum memoryswap limit should be larger than memory limit"),
            ({"nano_cpus": 10**9, "cpu_quota": 1000}, "Conflicting options: Nano CPUs and CPU Quota cannot both be set"),
            ({"nano_cpus": 10**13}, "ange of CPUs is from 0.01 to"),
            ({"cpuset_cpus": "0,999"}, "Requested CPUs are not available"),
            ({"cpu_period": 10}, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"),
            ({"shm_size": -1}, "SHM size can not be less than 0"),
            ({"oom_score_adj": 2000}, "range for oom score adj is [-1000, 1000]"),
        ]:
            with self.subTest(options), self.refused(400, words):
                self.create(**options)

    def test_ulimits_sysctls_and_shared_memory(self):
        out = self.shell(
            "ulimit -n; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; df /dev/shm | tail -1 | awk '{print $2}'",
            ulimits=[Ulimit(name="nofile", soft=512, hard=1024)],
            sysctls={"net.ipv4.ip_unprivileged_port_start": "80"},
            shm_size="8m",
        )
        self.assertEqual(out.split(), ["512", "80", "8192"])
        with self.refused(400, "kernel.domainname"):
            # Docker Engine refuses it at start only.
            self.start(sysctls={"kernel.domainname": "x"})


class Fences(Case):
    @quick
    def test_capabilities_and_privileges(self):
        self.assertIn("CapEff:\t00000000a80425fb", self.shell("cat /proc/self/status"))
        self.assertIn("CapEff:\t0000000000000400", self.shell("cat /proc/self/status", cap_drop=["ALL"], cap_add=["NET_BIND_SERVICE"]))
        out = self.shell("cat /proc/self/status", security_opt=["no-new-privileges", "seccomp=unconfined"])
        self.assertIn("NoNewPrivs:\t1", out)
        self.assertIn("Seccomp:\t0", out)
        self.assertIn("mounted", self.shell("mkdir /m && mount -t tmpfs x /m && echo mounted", privileged=True))

    def test_a_seccomp_profile_of_ones_own(self):
        profile = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
        }
        out = self.shell("mkdir /x 2>&1 || true", security_opt=[f"seccomp={json.dumps(profile)}"])
        self.assertIn("not supported", out)

    def test_devices(self):
        out = self.shell("ls -l /dev/mine; head -c2 /dev/mine | wc -c", devices=["/dev/zero:/dev/mine:r"])
        self.assertRegex(out, r"crw.* 1, +5 .*/dev/mine\n2\n")
        rule = "mknod /disk b 254 0; (dd if=/disk of=/dev/null bs=1 count=1 2>&1 || true) | head -1"
        self.assertIn("Operation not permitted", self.shell(rule))

    def test_namespaces_of_other_containers_and_the_host(self):
        first = self.start(["sleep", "1234"], hostname="first", ipc_mode="shareable")
        self.assertIn("sleep 1234", self.shell("ps", pid_mode=f"container:{first.id}"))
        self.assertEqual(
            self.shell("ip -o -4 addr show eth0 | awk '{print $4}'", network_mode=f"container:{first.name}").split("/")[0],
            self.inspect(first)["NetworkSettings"]["IPAddress"],
        )
        self.assertEqual(self.shell("ls /sys/class/net", network_mode="none"), "lo\n")
        with self.refused(400, "conflicting options"):
            self.create(network_mode=f"container:{first.id}", hostname="x")


class Network(Case):
    @quick
    def test_ports_hosts_and_dns(self):
        container = self.start(
            ["sleep", "1000"],
            ports={"80/tcp": None, "53/udp": ("127.0.0.1", None)},
            extra_hosts={"other": "10.1.2.3"},
            dns=["10.9.8.7"],
            dns_search=["example.org"],
            dns_opt=["ndots:2"],
        )
        container.reload()
        self.assertRegex(container.ports["80/tcp"][0]["HostPort"], r"^\d+$")
        self.assertEqual(container.ports["53/udp"][0]["HostIp"], "127.0.0.1")
        hosts = container.exec_run(["cat", "/etc/hosts", "/etc/resolv.conf"]).output.decode()
        self.assertIn("10.1.2.3\tother", hosts)
        for line in ("nameserver 10.9.8.7", "search example.org", "options ndots:2"):
            self.assertIn(line, hosts)

    def test_a_mac_address_of_ones_own(self):
        container = self.start(mac_address="02:42:ac:11:00:99")
        self.assertEqual(self.inspect(container)["NetworkSettings"]["Networks"]["bridge"]["MacAddress"], "02:42:ac:11:00:99")
        self.assertEqual(container.exec_run(["cat", "/sys/class/net/eth0/address"]).output, b"02:42:ac:11:00:99\n")

    def test_a_network_that_is_not_there_is_no_missing_image(self):
        container = None
        try:
            container = self.create(network_mode="nowhere")
            with self.refused(404, "network nowhere not found"):
                container.start()
        except Exception as error:  # hostd refuses at once.
            self.assertIn("network nowhere not found", str(error))
            self.assertIsNone(container)
