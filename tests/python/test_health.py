"""Health checks."""

from docker.types import Healthcheck

from case import Case, quick


class Health(Case):
    def state(self, container, status):
        return self.eventually(
            f"it to be {status}",
            lambda: (lambda health: health if health["Status"] == status else None)(self.inspect(container)["State"]["Health"]),
        )

    def check(self, test, **options):
        milliseconds = 1_000_000
        return Healthcheck(test=test, interval=100 * milliseconds, timeout=20_000 * milliseconds, retries=2, **options)

    def test_a_check_that_passes_and_then_fails(self):
        box = self.start(healthcheck=self.check(["CMD-SHELL", "echo checked; test ! -e /sick"]))
        health = self.state(box, "healthy")
        self.assertEqual((health["FailingStreak"], health["Log"][-1]["ExitCode"]), (0, 0))
        self.assertEqual(health["Log"][-1]["Output"], "checked\n")
        self.assertIn(box.id, [item["Id"] for item in self.api.containers(filters={"health": "healthy"})])
        box.exec_run(["touch", "/sick"])
        self.assertGreaterEqual(self.state(box, "unhealthy")["FailingStreak"], 2)
        self.assertIn("(unhealthy)", self.api.containers(filters={"id": box.id})[0]["Status"])


