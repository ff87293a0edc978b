"""Limits that change while a container runs."""

from case import Case, quick


class Updating(Case):
    @quick
    def test_limits_and_policy_change_under_a_running_container(self):
        container = self.start(mem_limit="64m")
        answer = container.update(mem_limit="96m", memswap_limit="192m", cpu_shares=256, restart_policy={"Name": "always"})
        self.assertFalse(answer["Warnings"])
        host = self.inspect(container)["HostConfig"]
        self.assertEqual((host["Memory"], host["CpuShares"], host["RestartPolicy"]["Name"]), (96 << 20, 256, "always"))
        script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null"
        self.assertEqual(container.exec_run(["sh", "-c", script]).output, f"{96 << 20}\n".encode())

    def test_what_makes_no_sense_is_refused_and_changes_nothing(self):
        container = self.start(mem_limit="64m")
        with self.refused(400, "Minimum memory limit allowed is 6MB"):
            container.update(mem_limit="1m")
        self.assertEqual(self.inspect(container)["HostConfig"]["Memory"], 64 << 20)
