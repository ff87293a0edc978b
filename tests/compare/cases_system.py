"""`/_ping`, `/version`, `/info`, `/events`, `/system/df`, and what is no endpoint."""
import time


def ping(e):
    for version in ("", "1.24", "1.41"):
        e.ask("GET", "/_ping", version=version)
        e.ask("HEAD", "/_ping", version=version)
    e.ask("POST", "/_ping")
    e.ask("GET", "/v1.23/_ping", version="")


def version(e):
    for version in ("", "1.24", "1.30", "1.41"):
        e.get("/version", version=version)
    e.ask("HEAD", "/version")
    e.post("/version")


def info(e):
    for version in ("1.24", "1.30", "1.37", "1.38", "1.39", "1.40", "1.41"):
        e.get("/info", version=version)


def no_endpoint(e):
    for method, path in [("GET", "/"), ("GET", "/nonsense"), ("POST", "/nonsense"), ("PUT", "/containers/json"),
                         ("POST", "/containers/json"), ("GET", "/containers/create"), ("GET", "/containers"),
                         ("GET", "/containers/"), ("DELETE", "/containers/"), ("PATCH", "/info"), ("OPTIONS", "/info"),
                         ("GET", "//info"), ("GET", "/info/")]:
        e.ask(method, path)
    for version in ("1.23", "1.10", "1", "2.0", "1.999", "x"):
        e.get("/info", version=version, only=lambda a: a.status)


def df(e):
    for version in ("1.24", "1.25", "1.30", "1.41"):
        e.get("/system/df", version=version)
    e.run("used", Volumes={"/data": {}}, Labels={"a": "b"})
    e.ended("done", HostConfig={"Binds": ["kept:/x"]})
    e.get("/system/df")


def _events(e, since, **filters):
    """What was told since then, without times, and without the mounts that dockerd makes to look into a container."""
    def told(answer):
        groups = {}
        for line in answer.lines:
            attributes = line["Actor"]["Attributes"]
            del line["time"], line["timeNano"]
            attributes.pop("execDuration", None)
            if line["Action"] not in ("mount", "unmount"):
                # What is told of one thing has an order; what is told of two need not.
                group = f"{line['Type']} {attributes.get('container') or attributes.get('name', '')}"
                groups.setdefault(group, []).append(line)
        return groups
    return e.get(f"/events?since={since}&until={time.time():.9f}&" + e.filters(**filters), label="events",
                 only=told)


def _now():
    return f"{time.time():.9f}"


def events_of_a_life(e):
    since = _now()
    e.create("web", Labels={"tier": "front"}, Volumes={"/data": {}}, HostConfig={"Binds": ["named:/named"]}, Tty=True)
    for step in ("start", "pause", "unpause", "resize?h=10&w=20", "kill?signal=CONT", "restart?t=0", "rename?name=web2"):
        e.call("POST", f"/containers/web/{step}")
    e.call("POST", "/containers/web2/update", {"Memory": 64 << 20, "MemorySwap": 128 << 20})
    e.call("GET", "/containers/web2/top")
    e.call("GET", "/containers/web2/archive?path=/etc/passwd")
    e.call("PUT", "/containers/web2/archive?path=/tmp", b"\0" * 1024, {"Content-Type": "application/x-tar"})
    e.call("GET", "/containers/web2/export")
    e.call("POST", "/commit?container=web2&repo=made&tag=1&comment=why")
    e.call("POST", "/containers/web2/stop?t=0")
    e.call("DELETE", "/containers/web2?v=1")
    e.call("DELETE", "/images/made:1")
    e.call("DELETE", "/volumes/named")
    _events(e, since)
    for kind in ("container", "image", "volume", "network", "daemon", "plugin", "nonsense"):
        _events(e, since, type=[kind])
    _events(e, since, event=["die", "kill"])
    _events(e, since, container=["web2"])
    _events(e, since, label=["tier=front"])
    _events(e, since, label=["tier"], event=["start"])
    _events(e, since, image=["busybox"])
    _events(e, since, volume=["named"])
    _events(e, since, network=["bridge"])
    _events(e, since, scope=["local"])
    _events(e, since, scope=["swarm"])
    _events(e, since, daemon=["x"])


def events_of_execs(e):
    since = _now()
    e.run("web")
    for body in ({"Cmd": ["sh", "-c", "exit 3"]}, {"Cmd": ["no-such"]}, {"Cmd": ["true"], "AttachStdout": True}):
        id = e.exec("web", **body)
        e.call("POST", f"/exec/{id}/start", {"Detach": not body.get("AttachStdout")})
        time.sleep(0.5)
    _events(e, since)


def events_of_failures(e):
    since = _now()
    e.create("none", Cmd=["no-such-program"])
    e.call("POST", "/containers/none/start")
    e.ended("bad", code=7)
    e.run("gone", Cmd=["true"], HostConfig={"AutoRemove": True})
    e.call("POST", "/containers/gone/wait?condition=removed")
    e.run("killed")
    e.call("POST", "/containers/killed/kill")
    e.call("POST", "/containers/killed/wait")
    e.call("POST", "/containers/prune")
    time.sleep(0.5)
    _events(e, since)


def events_of_images_and_volumes(e):
    since = _now()
    e.call("POST", "/images/busybox/tag?repo=other&tag=1")
    e.call("DELETE", "/images/other:1")
    e.call("POST", "/volumes/create", {"Name": "v1", "Labels": {"a": "b"}})
    e.call("DELETE", "/volumes/v1")
    e.call("POST", "/volumes/create", {"Name": "v2"})
    e.call("POST", "/volumes/prune")
    e.call("POST", "/images/prune")
    e.call("POST", "/networks/prune")
    e.call("POST", "/images/create?fromSrc=-&repo=imported&tag=1", b"\0" * 1024, {"Content-Type": "application/x-tar"})
    e.call("DELETE", "/images/imported:1")
    _events(e, since)


def events_badly_asked(e):
    for query in ("filters=x", "filters=[]", 'filters={"nonsense":["x"]}', "since=x", "until=x", "since=2&until=1",
                  'filters={"type":"container"}', 'filters={"type":{"container":true}}', 'filters={"type":["x"]}',
                  "since=1&until=2", "since=1m&until=0s", "since=2020-01-01&until=2020-01-02",
                  "since=2020-01-01T00:00:00Z&until=2020-01-01T00:00:01", 'filters={"label":["a"]}&until=1&since=0'):
        e.get("/events?" + query.replace('"', "%22").replace("{", "%7B").replace("}", "%7D"), timeout=3)
