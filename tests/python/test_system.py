"""The engine itself: version, info, disk usage, events, statistics, processes; networks and volumes beside them."""


from case import IMAGE, PATIENCE, Case, quick


class Engine(Case):
    @quick
    def test_it_tells_what_it_is(self):
        self.assertTrue(self.docker.ping())
        version = self.docker.version()
        self.assertEqual((version["ApiVersion"], version["MinAPIVersion"]), ("1.50", "1.24"))
        info = self.docker.info()
        self.assertEqual(info["OSType"], "linux")
        self.assertGreater(info["NCPU"], 0)
        self.assertIn(info["CgroupVersion"], ("1", "2"))

    @quick
    def test_it_counts_containers(self):
        before = self.docker.info()
        self.create()
        paused = self.start()
        paused.pause()
        # Others may run beside it: at least these are there.
        after = self.docker.info()
        self.assertGreaterEqual(after["Containers"], 2)
        self.assertGreaterEqual(after["ContainersPaused"], 1)
        self.assertEqual(after["ID"], before["ID"])

    @quick
    def test_disk_usage_names_what_uses_it(self):
        volume = self.docker.volumes.create(self.name(), labels=self.labels())
        container = self.ended(["sh", "-c", "head -c 100000 /dev/zero > /data/file; cp /data/file /"], volumes=[f"{volume.name}:/data"])
        usage = self.docker.df()
        mine = next(item for item in usage["Containers"] if item["Id"] == container.id)
        self.assertGreaterEqual(mine["SizeRw"], 100000)
        mine = next(item for item in usage["Volumes"] if item["Name"] == volume.name)
        self.assertEqual(mine["UsageData"]["RefCount"], 1)
        self.assertGreaterEqual(mine["UsageData"]["Size"], 100000)
        self.assertTrue(any(IMAGE in (item["RepoTags"] or []) for item in usage["Images"]))

    def test_processes_are_shown_in_the_columns_of_ps(self):
        container = self.start(["sleep", "4321"])
        shown = container.top()
        self.assertIn("sleep 4321", shown["Processes"][0])
        shown = container.top(ps_args="-o pid,comm")
        self.assertEqual(shown["Titles"], ["PID", "COMMAND"])
        with self.refused(409, "is not running"):
            self.create().top()

    @quick
    def test_statistics_once_and_streamed(self):
        container = self.start(["sh", "-c", "while :; do :; done"])
        once = container.stats(stream=False)
        self.assertEqual(once["name"], f"/{container.name}")
        self.assertGreater(once["memory_stats"]["usage"], 0)
        self.assertGreater(once["cpu_stats"]["cpu_usage"]["total_usage"], once["precpu_stats"]["cpu_usage"]["total_usage"])
        stream = container.stats(stream=True, decode=True)
        first, second = next(stream), next(stream)
        self.assertGreaterEqual(second["cpu_stats"]["cpu_usage"]["total_usage"], first["cpu_stats"]["cpu_usage"]["total_usage"])
        self.assertEqual(second["precpu_stats"]["cpu_usage"], first["cpu_stats"]["cpu_usage"])
        stream.close()
        container.kill()
        self.assertEqual(container.stats(stream=False)["memory_stats"], {})


class Events(Case):
    def now(self):
        """By the engine's clock: that of a guest may be seconds away from this one."""
        return self.docker.info()["SystemTime"]

    def past(self, since, **filters):
        filters.setdefault("label", f"suite={self.mark}")
        return list(self.api.events(since=since, until=self.now(), filters=filters, decode=True))

    @quick
    def test_a_life_is_told_in_order_with_attributes(self):
        since = self.now()
        container = self.start(["sh", "-c", "exit 4"], name=self.name(), labels={"colour": "blue"})
        container.wait(timeout=PATIENCE)
        container.rename(self.name("-new"))
        container.remove()
        seen = self.eventually(
            "the removal", lambda: (lambda all: all if all and all[-1]["Action"] == "destroy" else None)(self.past(since, type="container"))
        )
        actions = [event["Action"] for event in seen]
        self.assertEqual(actions, ["create", "start", "die", "rename", "destroy"])
        for event in seen:
            self.assertEqual((event["Actor"]["ID"], event["scope"]), (container.id, "local"))
            self.assertEqual(event["Actor"]["Attributes"]["image"], IMAGE)
            self.assertEqual(event["Actor"]["Attributes"]["colour"], "blue")
        attributes = {event["Action"]: event["Actor"]["Attributes"] for event in seen}
        self.assertEqual(attributes["die"]["exitCode"], "4")
        self.assertEqual(attributes["rename"]["oldName"], f"/{self.name()}")
        times = [event["timeNano"] for event in seen]
        self.assertEqual(times, sorted(times))

    @quick
    def test_one_who_listens_is_told_at_once(self):
        stream = self.api.events(filters={"label": f"suite={self.mark}", "event": ["start", "die"]}, decode=True)
        seen = []
        listening = self.beside(lambda: [seen.append(next(stream)["Action"]) for _ in range(2)])
        # The stream's head has come, so that it listens.
        self.start(["true"])
        listening.join(PATIENCE)
        self.assertEqual(seen, ["start", "die"])
        stream.close()

    def test_filters_choose(self):
        since = self.now()
        box = self.start(name=self.name())
        box.exec_run(["true"])
        box.pause()
        box.unpause()
        volume = self.docker.volumes.create(self.name("-v"), labels=self.labels())
        volume.remove()

        def actions(**filters):
            found = self.api.events(since=since, until=self.now(), filters=filters, decode=True)
            return [event["Action"].partition(":")[0] for event in found]

        self.assertEqual(actions(container=box.id, event=["pause", "unpause"]), ["pause", "unpause"])
        self.assertEqual(actions(container=self.name(), event="start"), ["start"])
        self.assertEqual(actions(volume=self.name("-v")), ["create", "destroy"])
        self.assertIn("exec_create", actions(container=box.id))
        self.eventually("the end of the exec", lambda: "exec_die" in actions(container=box.id))
        connected = self.past(since, type="network", event="connect", label=[])
        self.assertIn(box.id, [event["Actor"]["Attributes"].get("container") for event in connected])
        with self.refused(400):
            # docker-py itself takes the answer for an event.
            self.api._raise_for_status(self.api._get(self.api._url("/events"), params={"since": "yesterday"}))


class Volumes(Case):
    @quick
    def test_a_volume_is_made_listed_inspected_and_removed(self):
        volume = self.docker.volumes.create(self.name(), labels=self.labels(colour="red"))
        self.assertEqual(volume.attrs["Labels"]["colour"], "red")
        self.assertEqual(self.docker.volumes.create(self.name()).id, volume.id)
        found = self.docker.volumes.list(filters={"label": "colour=red", "name": self.name()})
        self.assertEqual([item.name for item in found], [self.name()])
        container = self.create(volumes=[f"{self.name()}:/data"])
        with self.refused(409, "volume is in use"):
            volume.remove()
        container.remove()
        volume.remove()
        with self.refused(404, f"get {self.name()}: no such volume"):
            self.docker.volumes.get(self.name())

    def test_prune_removes_what_is_unused_and_fits(self):
        used = self.docker.volumes.create(self.name("-used"), labels=self.labels())
        self.docker.volumes.create(self.name("-free"), labels=self.labels())
        container = self.create(volumes=[f"{used.name}:/data"])
        pruned = self.docker.volumes.prune({"all": "true", "label": f"suite={self.mark}"})
        self.assertEqual(pruned["VolumesDeleted"], [self.name("-free")])
        container.remove()


class Networks(Case):
    @quick
    def test_the_networks_that_are_always_there(self):
        names = {network.name for network in self.docker.networks.list()}
        self.assertLessEqual({"bridge", "host", "none"}, names)
        container = self.start()
        bridge = self.docker.networks.get("bridge")
        self.assertIn(container.id, bridge.attrs["Containers"])
        self.assertEqual([item.name for item in self.docker.networks.list(names=["bridge"])], ["bridge"])
        with self.refused(404, "network nowhere not found"):
            self.docker.networks.get("nowhere")


class Images(Case):
    @quick
    def test_images_are_listed_inspected_tagged_and_removed(self):
        image = self.docker.images.get(IMAGE)
        self.assertIn(IMAGE, image.tags)
        tag = f"{self.name()}:one"
        self.assertTrue(image.tag(self.name(), "one"))
        self.assertEqual([found.id for found in self.docker.images.list(name=tag)], [image.id])
        self.assertGreater(len(self.docker.images.list(filters={"reference": f"{self.mark}*"})), 0)
        self.docker.images.remove(tag)
        with self.refused(404, f"No such image: {tag}"):
            self.docker.images.get(tag)
        self.assertTrue(self.api.history(IMAGE))
        self.assertEqual(self.api.prune_images({"label": "nobody-has-this"})["SpaceReclaimed"], 0)
