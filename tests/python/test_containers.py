"""A container's life over the API: create, start, stop, restart, kill, pause, rename, wait, remove, list, prune."""

from case import IMAGE, PATIENCE, Case, quick


class Life(Case):
    @quick
    def test_a_container_prints_and_is_gone_after_run(self):
        self.assertEqual(self.run_once(["echo", "hello"], name=self.name()), "hello\n")
        with self.refused(404, f"No such container: {self.name()}"):
            self.api.inspect_container(self.name())

    @quick
    def test_a_failed_run_carries_its_code_and_its_stderr(self):
        import docker

        with self.assertRaises(docker.errors.ContainerError) as caught:
            self.shell("echo why >&2; exit 7")
        self.assertEqual((caught.exception.exit_status, caught.exception.stderr), (7, b"why\n"))

    @quick
    def test_states_follow_one_another(self):
        container = self.create(["sleep", "1000"], name=self.name())
        self.assertEqual(container.status, "created")
        container.start()
        container.start()
        states = []
        for act in (container.reload, container.pause, container.unpause, lambda: container.stop(timeout=0)):
            act()
            container.reload()
            states.append(container.status)
        self.assertEqual(states, ["running", "paused", "running", "exited"])
        self.assertEqual(self.inspect(container)["State"]["ExitCode"], 137)
        container.stop()
        container.restart(timeout=0)
        container.reload()
        self.assertEqual(container.status, "running")
        container.remove(force=True)

    def test_what_its_state_does_not_allow_is_refused(self):
        container = self.create(["sleep", "1000"])
        with self.refused(409, "is not running"):
            container.kill()
        with self.refused(409, "is not running"):
            container.pause()
        with self.refused(409, "is not running"):
            container.exec_run(["true"])
        container.start()
        with self.refused(409, "is not paused"):
            container.unpause()
        with self.refused(409, "container is running: stop the container before removing or force remove"):
            container.remove()
        container.pause()
        with self.refused(409, "is already paused"):
            container.pause()
        container.unpause()
        with self.refused(400, "Invalid signal: NOPE"):
            container.kill(signal="NOPE")

    def test_signals_go_by_name_and_number(self):
        script = "trap 'echo usr1' USR1; trap 'echo hup' HUP; trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"
        container = self.start(["sh", "-c", script])
        self.eventually("the traps", lambda: b"ready" in container.logs())
        container.kill(signal="SIGUSR1")
        self.eventually("USR1", lambda: b"usr1" in container.logs())
        container.kill(signal=1)
        self.eventually("HUP", lambda: b"hup" in container.logs())
        container.stop()
        self.assertEqual(container.wait()["StatusCode"], 3)

    def test_the_stop_signal_and_timeout_of_create_count(self):
        script = "trap 'exit 4' USR2; echo ready; while :; do sleep 0.05; done"
        container = self.start(["sh", "-c", script], stop_signal="SIGUSR2")
        self.eventually("the trap", lambda: b"ready" in container.logs())
        container.stop()
        self.assertEqual(container.wait()["StatusCode"], 4)
        self.assertEqual(self.inspect(container)["Config"]["StopSignal"], "SIGUSR2")

    def test_names_are_unique_and_can_be_changed(self):
        first = self.create(name=self.name("-a"))
        with self.refused(409, f'The container name "/{self.name("-a")}" is already in use by container "{first.id}"'):
            self.create(name=self.name("-a"))
        first.rename(self.name("-b"))
        self.assertEqual(self.docker.containers.get(self.name("-b")).id, first.id)
        with self.refused(400, "Renaming a container with the same name as its current name"):
            first.rename(self.name("-b"))
        self.create(name=self.name("-c"))
        with self.refused(409, "is already in use"):
            first.rename(self.name("-c"))
        with self.refused(400, "Invalid container name"):
            first.rename("no good")
        self.assertEqual(self.docker.containers.get(first.id[:12]).name, self.name("-b"))

    def test_a_missing_image_is_told_so_that_clients_pull_it(self):
        with self.refused(404, "No such image: nobody-has-this:latest"):
            self.create(image="nobody-has-this:latest")

    def test_removal_takes_anonymous_volumes_along_only_when_asked(self):
        def volumes():
            return {volume.name for volume in self.docker.volumes.list()}

        for along in (False, True):
            container = self.create(volumes=["/data"])
            name = self.inspect(container)["Mounts"][0]["Name"]
            self.assertIn(name, volumes())
            container.remove(v=along)
            self.assertEqual(name not in volumes(), along)
            if not along:
                self.docker.volumes.get(name).remove()


class Waiting(Case):
    def waiter(self, container, condition="not-running"):
        """A wait that stands when this returns, since the engine answers the head then. Called, it gives the result."""
        url = self.api._url("/containers/{0}/wait", container.id)
        response = self.api._post(url, params={"condition": condition}, stream=True, timeout=PATIENCE)
        self.api._raise_for_status(response)
        return response.json

    @quick
    def test_wait_gives_the_exit_code_to_all_who_wait(self):
        container = self.start(["sh", "-c", "while [ ! -e /go ]; do sleep 0.05; done; exit 9"])
        waiters = [self.waiter(container) for _ in range(5)]
        # The container may end before the exec has been told of its own end.
        container.exec_run(["touch", "/go"])
        self.assertEqual([code() for code in waiters], [{"StatusCode": 9}] * 5)
        self.assertEqual(container.wait(), {"StatusCode": 9})

    def test_each_condition_is_waited_for(self):
        container = self.create(["sh", "-c", "exit 2"])
        self.assertEqual(container.wait(condition="not-running"), {"StatusCode": 0})
        next_exit, removed = self.waiter(container, "next-exit"), self.waiter(container, "removed")
        container.start()
        self.assertEqual(next_exit(), {"StatusCode": 2})
        container.remove()
        self.assertEqual(removed(), {"StatusCode": 2})
        with self.refused(404, "No such container"):
            container.wait()
        with self.refused(400, 'invalid condition: "some day"'):
            self.create().wait(condition="some day")

    def test_auto_remove_is_reported_to_one_who_waits_for_it(self):
        container = self.create(["sh", "-c", "exit 6"], auto_remove=True, volumes=["/data"])
        volume = self.inspect(container)["Mounts"][0]["Name"]
        removed = self.waiter(container, "removed")
        container.start()
        self.assertEqual(removed(), {"StatusCode": 6})
        self.assertNotIn(volume, {found.name for found in self.docker.volumes.list()})


class Listing(Case):
    def listed(self, **options):
        filters = {"label": [f"suite={self.mark}"], **options.pop("filters", {})}
        found = self.api.containers(filters=filters, **options)
        return {item["Names"][0].rpartition("-")[2] for item in found}

    @quick
    def test_filters_choose(self):
        up = self.start(name=self.name("-up"), labels={"role": "web"}, ports={"80/tcp": None})
        self.create(name=self.name("-new"), volumes=[f"{self.name()}:/data"])
        done = self.ended(["sh", "-c", "exit 3"], name=self.name("-done"))
        up.reload()
        public = up.ports["80/tcp"][0]["HostPort"]
        self.assertEqual(self.listed(), {"up"})
        self.assertEqual(self.listed(all=True), {"up", "new", "done"})
        for filters, expected in [
            ({"status": "exited"}, {"done"}),
            ({"status": ["created", "running"]}, {"up", "new"}),
            ({"exited": "3"}, {"done"}),
            ({"name": "-(up|done)$"}, {"up", "done"}),
            ({"id": up.id[:20]}, {"up"}),
            ({"label": [f"suite={self.mark}", "role=web"]}, {"up"}),
            ({"label": [f"suite={self.mark}", "role"]}, {"up"}),
            ({"ancestor": IMAGE}, {"up", "new", "done"}),
            ({"ancestor": "busybox"}, {"up", "new", "done"}),
            ({"before": done.id}, {"up", "new"}),
            ({"since": up.id}, {"new", "done"}),
            ({"volume": "/data"}, {"new"}),
            ({"volume": self.name()}, {"new"}),
            ({"network": "bridge"}, {"up", "new", "done"}),
            ({"expose": "80/tcp"}, {"up"}),
            ({"publish": public}, {"up"}),
            ({"is-task": "true"}, set()),
            ({"health": "none"}, {"up", "new", "done"}),
        ]:
            with self.subTest(filters):
                self.assertEqual(self.listed(all=True, filters=filters), expected)
        self.docker.containers.get(self.name("-new")).remove()
        self.docker.volumes.get(self.name()).remove()

    def test_limit_and_latest_show_stopped_ones_too(self):
        for name in "abc":
            self.create(name=self.name(f"-{name}"))
        self.assertEqual(self.listed(limit=2), {"b", "c"})
        self.assertEqual(self.listed(latest=True), {"c"})

    def test_a_filter_that_is_none_is_refused(self):
        for filters, words in [
            ({"nonsense": "x"}, "invalid filter 'nonsense'"),
            ({"status": "sleepy"}, "invalid filter 'status=sleepy'"),
            ({"exited": "x"}, "exited"),
            ({"health": "fine"}, "health"),
        ]:
            with self.subTest(filters), self.refused(400, words):
                self.api.containers(filters=filters)

    def test_sizes_are_told_when_asked_for(self):
        container = self.ended(["sh", "-c", "head -c 300000 /dev/zero > /file"], name=self.name("-big"))
        item = self.api.containers(all=True, size=True, filters={"id": container.id})[0]
        self.assertGreaterEqual(item["SizeRw"], 300000)
        self.assertGreater(item["SizeRootFs"], item["SizeRw"])

    def test_prune_removes_what_has_ended_and_fits(self):
        kept = self.create(labels={"keep": "yes"})
        gone = self.create()
        up = self.start()
        filters = {"label": f"suite={self.mark}", "label!": "keep"}
        self.assertEqual(self.docker.containers.prune(filters)["ContainersDeleted"], [gone.id])
        left = self.docker.containers.list(all=True, filters={"label": f"suite={self.mark}"})
        self.assertEqual({container.id for container in left}, {kept.id, up.id})
        self.assertFalse(self.docker.containers.prune({**filters, "until": "2000-01-01"})["ContainersDeleted"])


class Restarting(Case):
    def test_a_policy_starts_again_counts_and_gives_up(self):
        container = self.start(["sh", "-c", "exit 1"], restart_policy={"Name": "on-failure", "MaximumRetryCount": 2})

        def given_up():
            state = self.inspect(container)
            return state["RestartCount"] == 2 and state["State"]["Status"] == "exited"

        self.eventually("two restarts", given_up)

    def test_a_policy_that_contradicts_itself_is_refused(self):
        with self.refused(400, "maximum retry count"):
            self.create(restart_policy={"Name": "always", "MaximumRetryCount": 2})
        with self.refused(400, "can't create 'AutoRemove' container with restart policy"):
            self.create(restart_policy={"Name": "always"}, auto_remove=True)
