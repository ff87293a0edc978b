"""`/containers`: create, inspect, list, the life cycle, and all the ways in which a request is wrong."""
import io, tarfile, time

BUSYBOX = {"Image": "busybox", "Cmd": ["sleep", "1000"]}


def inspect(e):
    e.create("plain")
    e.run("running")
    e.ended("ended", code=3)
    e.create("broken", Cmd=["no-such-program"])
    e.post("/containers/broken/start")
    e.create("unlucky", Cmd=["/etc/passwd"])
    e.post("/containers/unlucky/start")
    for name in ("plain", "running", "ended", "broken", "unlucky"):
        e.get(f"/containers/{name}/json")
    for version in ("1.24", "1.30", "1.39", "1.40"):
        e.get("/containers/running/json", version=version)
    e.get("/containers/running/json?size=1")
    e.run("paused")
    e.call("POST", "/containers/paused/pause")
    e.get("/containers/paused/json", only=lambda a: a.json["State"])
    e.get("/containers/none/json")
    e.get("/containers/pl/json", only=lambda a: a.json["Name"])


def inspect_of_everything(e):
    e.create("full", Hostname="h", Domainname="d.example", User="1000:1000", AttachStdin=True, AttachStdout=True, AttachStderr=True,
             ExposedPorts={"80/tcp": {}, "53/udp": {}}, Tty=True, OpenStdin=True, StdinOnce=True, Env=["A=1", "B"], Cmd=["-c", "sleep 1000"],
             Entrypoint=["sh"], Volumes={"/vol": {}}, WorkingDir="/work", Labels={"l": "1"}, StopSignal="SIGINT", StopTimeout=3, Shell=["sh"],
             MacAddress="02:42:ac:11:00:99",
             Healthcheck={"Test": ["CMD-SHELL", "true"], "Interval": 10**9, "Timeout": 10**9, "StartPeriod": 10**9, "Retries": 2},
             HostConfig={
                 "Binds": ["/usr/share:/host:ro", "named:/named", "other:/other:ro,nocopy"], "PortBindings": {"80/tcp": [{"HostPort": "8081"}]},
                 "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "CapAdd": ["net_admin"], "CapDrop": ["CHOWN"],
                 "Dns": ["1.1.1.1"], "DnsOptions": ["ndots:1"], "DnsSearch": ["example.com"], "ExtraHosts": ["a:1.2.3.4"],
                 "GroupAdd": ["10"], "IpcMode": "shareable", "OomScoreAdj": 100, "PidMode": "host",
                 "Privileged": False, "PublishAllPorts": True, "ReadonlyRootfs": True, "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"],
                 "Tmpfs": {"/t": "size=1m"}, "ShmSize": 1 << 20, "Sysctls": {"net.ipv4.ip_forward": "1"},
                 "CpuShares": 100, "Memory": 64 << 20, "NanoCpus": 10**9, "CpusetCpus": "0", "PidsLimit": 10,
                 "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}], "Init": True,
                 "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/n", "CgroupPermissions": "rwm"}],
                 "DeviceCgroupRules": ["c 1:3 rwm"], "MemoryReservation": 32 << 20, "MemorySwap": 128 << 20, "MemorySwappiness": 10,
                 "Mounts": [{"Type": "tmpfs", "Target": "/t2", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 448}},
                            {"Type": "bind", "Source": "/usr/share", "Target": "/b", "ReadOnly": True, "BindOptions": {"Propagation": "rslave"}},
                            {"Type": "volume", "Source": "third", "Target": "/v", "VolumeOptions": {"NoCopy": True, "Labels": {"x": "y"}}}],
                 "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}}, "CgroupParent": "/berth-compare",
                 "MaskedPaths": ["/proc/x"], "ReadonlyPaths": ["/proc/y"], "BlkioDeviceReadBps": []})
    e.get("/containers/full/json", only=_in_order)
    e.get("/containers/json?all=1", only=_in_order)
    for name, host in {"private": {"Privileged": True}, "hostnet": {"NetworkMode": "host"}, "nonet": {"NetworkMode": "none"},
                       "joined": {"NetworkMode": "container:full"}, "from": {"VolumesFrom": ["full:ro"]}}.items():
        e.create(name, HostConfig=host)
        e.get(f"/containers/{name}/json", only=_in_order)
        # Not every machine lets dockerd start what has all privileges.
        if name != "private":
            e.call("POST", f"/containers/{name}/start")
            e.get(f"/containers/{name}/json", label=f"{name} started")
            e.get(f"/containers/json?" + e.filters(name=[name]), only=_in_order)
    e.run("web", ExposedPorts={"80/tcp": {}, "81/tcp": {}}, HostConfig={"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8082"}]}})
    e.get("/containers/web/json")
    e.get("/containers/json?" + e.filters(name=["web"]))
    e.get("/containers/json?" + e.filters(name=["web"]), version="1.24")


def _in_order(answer):
    """Mounts by their place: dockerd lists them as its map has them."""
    for item in answer.json if isinstance(answer.json, list) else [answer.json]:
        item["Mounts"].sort(key=lambda mount: mount["Destination"])
    return answer.json


def create_bodies(e):
    def ask(body, **more):
        answer = e.post("/containers/create", body, **more)
        if answer.status == 201:
            e.names[answer.json["Id"]] = "new"
    for body in (None, b"", b"{}", b"null", b"[]", b"x", b'"a"', b"{} {}", b'{"Image":"busybox"} x', b'{"Image":""}', {"Cmd": ["x"]},
                 {"Image": "none"}, {"Image": "none:1"}, {"Image": "BAD"}, {"Image": "sha256:" + "0" * 64}, {"Image": "a" * 12}):
        ask(body, headers={"Content-Type": "application/json"})
    for kind in (None, "text/plain", "application/json; charset=utf-8", "application/x", ""):
        ask(BUSYBOX, headers={"Content-Type": kind})
    for body in ({"HostConfig": 1}, {"Cmd": 1}, {"Cmd": {"a": 1}}, {"Env": "A=1"}, {"Env": ["=x"]}, {"Env": [""]}, {"Labels": []}, {"Tty": 1},
                 {"Image": 1}, {"Entrypoint": 3}, {"HostConfig": None}, {"NetworkingConfig": None}, {"Volumes": {"x": {}}}, {"Volumes": {"": {}}},
                 {"Volumes": {"/": {}}}, {"ExposedPorts": {"x": {}}}, {"ExposedPorts": {"80/x": {}}}, {"ExposedPorts": {"99999/tcp": {}}},
                 {"WorkingDir": "x"}, {"StopSignal": "NOPE"}, {"StopSignal": "0"}, {"StopTimeout": "x"}, {"StopTimeout": -1},
                 {"Hostname": "a" * 70}, {"Hostname": "a_b"}, {"MacAddress": "x"}, {"User": "nobody-such"}, {"cmd": "x"}, {"IMAGE": "busybox"},
                 {"Healthcheck": {"Test": ["CMD"], "Interval": 1}}, {"Healthcheck": {"Test": ["X"]}}, {"Healthcheck": {"Interval": -1}},
                 {"Healthcheck": {"Timeout": 5}}, {"Healthcheck": {"Retries": -1}}, {"Healthcheck": {"StartPeriod": -1}}, {"Healthcheck": {}},
                 {"Entrypoint": "", "Cmd": None}, {"Entrypoint": [], "Cmd": []}, {"Entrypoint": [""], "Cmd": ["x"]}):
        ask({**BUSYBOX, **body})
    for name in ("aa", "a", "-a", "a b", "a/b", "/ok", "//x", "a" * 300, "é", "_a", ".a", "a%00"):
        answer = e.post(f"/containers/create?name={name.replace(' ', '%20').replace('é', '%C3%A9')}", BUSYBOX)
        if answer.status == 201:
            e.names[answer.json["Id"]] = "named"
    e.create("taken")
    e.post("/containers/create?name=taken", BUSYBOX)
    e.post("/containers/create?name=/taken", BUSYBOX)
    e.post("/containers/create?name=xx&platform=linux/arm64", BUSYBOX)
    e.post("/containers/create?name=xx&platform=bad/arch/x/y", BUSYBOX)
    e.post("/containers/create?name=xx&platform=windows", BUSYBOX)


def create_host_configs(e):
    for host in ({"Memory": 1}, {"Memory": -1}, {"Memory": "1"}, {"Memory": 64 << 20, "MemorySwap": 1}, {"MemorySwap": 64 << 20}, {"MemorySwap": -1},
                 {"MemoryReservation": 1}, {"Memory": 64 << 20, "MemoryReservation": 65 << 20}, {"MemorySwappiness": 101},
                 {"MemorySwappiness": -1}, {"MemorySwappiness": -2}, {"KernelMemory": 1}, {"NanoCpus": -1}, {"NanoCpus": 1},
                 {"NanoCpus": 10**12}, {"NanoCpus": 1, "CpuQuota": 1}, {"NanoCpus": 1, "CpuPeriod": 1}, {"CpuPeriod": 1}, {"CpuPeriod": 10**7},
                 {"CpuQuota": 1},
                 {"CpuQuota": -1}, {"CpuShares": -1}, {"CpuShares": 1}, {"CpusetCpus": "x"}, {"CpusetCpus": "999"}, {"CpusetCpus": "1-0"},
                 {"CpusetMems": "x"}, {"CpusetMems": "99"},
                 {"CpuRealtimePeriod": 1}, {"CpuRealtimeRuntime": 1}, {"CpuRealtimePeriod": 1000, "CpuRealtimeRuntime": 2000}, {"PidsLimit": -1},
                 {"PidsLimit": 0},
                 {"PidsLimit": -5}, {"BlkioWeight": 1}, {"BlkioWeight": 2000}, {"BlkioWeightDevice": [{"Path": "/dev/x", "Weight": 1}]},
                 {"BlkioDeviceReadBps": [{"Path": "/none", "Rate": 1}]}, {"BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": -1}]},
                 {"OomScoreAdj": 2000}, {"OomScoreAdj": -2000}, {"OomKillDisable": True}, {"ShmSize": -1}, {"CpuCount": 1}, {"CpuPercent": 1},
                 {"IOMaximumBandwidth": 1}, {"IOMaximumIOps": 1},
                 {"RestartPolicy": {"Name": "x"}}, {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 1}},
                 {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}},
                 {"RestartPolicy": {"Name": "no", "MaximumRetryCount": 1}}, {"RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 1}},
                 {"RestartPolicy": {"Name": "always"}, "AutoRemove": True},
                 {"NetworkMode": "none-such"}, {"NetworkMode": "container:none"}, {"NetworkMode": "container:"}, {"NetworkMode": "host",
                 "PortBindings": {"80/tcp": [{}]}},
                 {"NetworkMode": "host", "Links": ["a:b"]}, {"NetworkMode": "container:x", "Dns": ["1.1.1.1"]}, {"Links": ["none:x"]},
                 {"Links": ["x:y:z"]},
                 {"IpcMode": "x"}, {"IpcMode": "container:none"}, {"PidMode": "x"}, {"PidMode": "container:none"}, {"PidMode": "container:"},
                 {"UTSMode": "x"}, {"UsernsMode": "x"}, {"CgroupnsMode": "x"},
                 {"Isolation": "hyperv"}, {"Isolation": "default"}, {"Runtime": "x"}, {"CapAdd": ["x"]}, {"CapAdd": ["ALL"]}, {"CapDrop": ["NOPE"]},
                 {"SecurityOpt": ["x"]}, {"SecurityOpt": ["x=y"]},
                 {"SecurityOpt": ["seccomp={"]}, {"SecurityOpt": ["label:disable"]}, {"SecurityOpt": ["no-new-privileges=x"]},
                 {"SecurityOpt": ["systempaths=unconfined"]}, {"GroupAdd": ["x"]},
                 {"Binds": ["x"]}, {"Binds": ["/run/a:b"]}, {"Binds": ["/run/a:/b:x"]}, {"Binds": ["/run/none-such/x:/b"]}, {"Binds": ["a:/b:c:d"]},
                 {"Binds": ["/run/a:/"]}, {"Binds": ["../x:/b"]},
                 {"Binds": ["a b:/x"]}, {"Binds": ["/tmp:/b", "/tmp:/b"]}, {"Binds": [""]}, {"Binds": ["/tmp:/b:ro,rw"]}, {"Binds": ["/tmp:/b:z,Z"]},
                 {"Binds": ["/usr/share:/b:shared"]},
                 {"Mounts": [{"Type": "x", "Target": "/a"}]}, {"Mounts": [{"Type": "bind", "Target": "/a"}]}, {"Mounts": [{"Type": "bind",
                 "Source": "/none-such", "Target": "/a"}]},
                 {"Mounts": [{"Type": "bind", "Source": "x", "Target": "/a"}]}, {"Mounts": [{"Type": "volume"}]}, {"Mounts": [{"Type": "volume",
                 "Target": "a"}]}, {"Mounts": [{"Type": "volume", "Target": "/"}]},
                 {"Mounts": [{"Type": "tmpfs", "Target": "/a", "Source": "x"}]}, {"Mounts": [{"Type": "tmpfs", "Target": "/a",
                 "TmpfsOptions": {"SizeBytes": -1}}]},
                 {"Mounts": [{"Type": "tmpfs", "Target": "/a"}], "Tmpfs": {"/a": ""}}, {"Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "/a",
                 "VolumeOptions": {}}]},
                 {"Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "/a", "BindOptions": {"Propagation": "x"}}]}, {"Mounts": [{"Type": "npipe",
                 "Source": "/tmp", "Target": "/a"}]},
                 {"Tmpfs": {"/a": "x=y"}}, {"Tmpfs": {"a": ""}}, {"Tmpfs": {"/": ""}}, {"Tmpfs": {"/a": "size=x"}}, {"VolumesFrom": ["none"]},
                 {"VolumesFrom": ["none:x"]}, {"VolumesFrom": [""]}, {"VolumeDriver": "x", "Binds": ["v:/x"]},
                 {"Ulimits": [{"Name": "x", "Soft": 1, "Hard": 1}]}, {"Ulimits": [{"Name": "nofile", "Soft": 2, "Hard": 1}]}, {"Sysctls": {"x": "1"}},
                 {"Sysctls": {"kernel.x": "1"}}, {"Sysctls": {"net.x": "1"}, "NetworkMode": "host"},
                 {"Devices": [{"PathOnHost": "/none"}]}, {"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/x",
                 "CgroupPermissions": "q"}]}, {"DeviceCgroupRules": ["x"]},
                 {"DeviceRequests": [{"Driver": "x"}]}, {"DeviceRequests": [{"Count": -1, "Capabilities": [["gpu"]]}]},
                 {"DeviceRequests": [{"Count": 1, "DeviceIDs": ["a"], "Capabilities": [["gpu"]]}]},
                 {"LogConfig": {"Type": "x"}}, {"LogConfig": {"Type": "json-file", "Config": {"x": "1"}}}, {"LogConfig": {"Type": "json-file",
                 "Config": {"max-size": "x"}}}, {"LogConfig": {"Type": "json-file", "Config": {"max-file": "0"}}}, {"LogConfig": {"Type": "json-file",
                 "Config": {"max-file": "2"}}},
                 {"LogConfig": {"Type": "none", "Config": {"x": "1"}}}, {"LogConfig": {"Type": "json-file", "Config": {"mode": "x"}}},
                 {"LogConfig": {"Type": "json-file", "Config": {"max-buffer-size": "1m"}}}, {"LogConfig": {"Type": "local", "Config": {"x": "1"}}},
                 {"LogConfig": {"Type": "syslog", "Config": {"syslog-address": "x"}}}, {"LogConfig": {"Type": "syslog",
                 "Config": {"syslog-facility": "x"}}}, {"LogConfig": {"Type": "syslog", "Config": {"x": "x"}}},
                 {"PortBindings": {"x": [{}]}}, {"PortBindings": {"80/tcp": [{"HostPort": "x"}]}}, {"PortBindings": {"80/tcp": [{"HostIp": "x"}]}},
                 {"PortBindings": {"80/tcp": [{"HostPort": "99999"}]}}, {"PortBindings": {"": [{}]}},
                 {"Dns": ["x"]}, {"DnsOptions": ["x y"]}, {"DnsSearch": ["."]}, {"ExtraHosts": ["x"]}, {"ExtraHosts": ["x:y"]},
                 {"ExtraHosts": ["h:host-gateway"]}, {"StorageOpt": {"size": "1G"}}, {"StorageOpt": {"x": "1"}}, {"CgroupParent": "berth-compare"},
                 
                 {"ConsoleSize": [1, 2]}, {"ConsoleSize": [1]}, {"Privileged": "x"}, {"Init": True}, {"ReadonlyRootfs": None},
                 {"Cgroup": "container:x"}, {"ContainerIDFile": "/x"}):
        answer = e.post("/containers/create?name=cc", {**BUSYBOX, "HostConfig": host}, label=f"create with {host}")
        if answer.status == 201:
            e.names[answer.json["Id"]] = "c"
            e.get("/containers/cc/json", only=lambda a: {key: a.json["HostConfig"].get(key, "absent") for key in host}, label=f"shown {host}")
            e.post("/containers/cc/start", label=f"start with {host}")
            e.call("DELETE", "/containers/cc?force=1&v=1")
        e.call("DELETE", "/volumes/v?force=1")


def create_networks(e):
    for config in ({}, {"EndpointsConfig": None}, {"EndpointsConfig": {"bridge": None}}, {"EndpointsConfig": {"bridge": {}}},
            {"EndpointsConfig": {"none-such": {}}},
                   {"EndpointsConfig": {"bridge": {"IPAMConfig": {"IPv4Address": "172.17.0.50"}}}},
                   {"EndpointsConfig": {"bridge": {"Aliases": ["a"]}}},
                   {"EndpointsConfig": {"bridge": {}, "host": {}}}, {"EndpointsConfig": {"bridge": {"Links": ["a"]}}}, {"EndpointsConfig": []},
                   {"EndpointsConfig": {"bridge": 1}}):
        e.post("/containers/create?name=cc", {**BUSYBOX, "NetworkingConfig": config})
        e.post("/containers/cc/start", label=f"start with {config}")
        e.call("DELETE", "/containers/cc?force=1&v=1")


def states(e):
    """Everything that can be asked of a container, in every state."""
    asks = [("GET", "json"), ("GET", "top"), ("GET", "top?ps_args=x"), ("GET", "top?ps_args=-o%20pid"), ("GET", "top?ps_args=aux"), ("GET", "logs"),
            ("GET", "logs?stdout=1"),
            ("GET", "changes"), ("GET", "stats?stream=0"), ("GET", "stats?stream=0&one-shot=1"), ("POST", "resize?h=10&w=10"), ("POST", "resize"),
            ("POST", "resize?h=x&w=1"),
            ("POST", "kill?signal=NOPE"), ("POST", "kill?signal=999"), ("POST", "kill?signal=0"), ("POST", "kill?signal=WINCH"), ("POST",
            "kill?signal=sigwinch"), ("POST", "kill?signal=28"), ("POST", "rename"),
            ("POST", "rename?name=a%20b"), ("POST", "rename?name=taken"), ("POST", "rename?name=SELF"), ("POST", "wait?condition=x"), ("POST",
            "attach"), ("POST", "attach?logs=1&stdout=1"),
            ("POST", "attach?stream=x&detachKeys=zzzz"), ("GET", "attach/ws"), ("GET", "archive"), ("GET", "archive?path=/none"), ("GET",
            "archive?path="), ("HEAD", "archive?path=/none"), ("HEAD", "archive?path=/etc"),
            ("HEAD", "archive?path=/etc/passwd"), ("PUT", "archive"), ("PUT", "archive?path=/none"), ("PUT", "archive?path=/etc/passwd"), ("HEAD",
            "archive"),
            ("DELETE", "?link=1"), ("POST", "start?checkpoint=x"), ("POST", "start?detachKeys=zzzz"), ("POST", "stop?t=x"), ("POST", "restart?t=x"),
            ("POST", "nonsense"), ("GET", "checkpoints"), ("POST", "checkpoints")]
    e.create("taken")
    for state in ("created", "running", "paused", "ended", "none", "restarting"):
        name = f"in-{state}"
        if state == "created":
            e.create(name)
        elif state in ("running", "paused"):
            e.run(name)
        elif state == "ended":
            e.ended(name)
        elif state == "restarting":
            e.run(name, Cmd=["false"], HostConfig={"RestartPolicy": {"Name": "always"}})
            for _ in range(200):
                if e.call("GET", f"/containers/{name}/json").json["RestartCount"] >= 6:
                    break
                time.sleep(0.1)
        if state == "paused":
            e.call("POST", f"/containers/{name}/pause")
        for method, path in asks:
            if state == "restarting" and path.startswith(("attach", "stats", "top", "kill", "resize", "logs", "json")):
                continue
            only = None
            if path == "json":
                only = lambda a: a.json["State"]
            elif path.startswith("stats"):
                only = lambda a: _shape(a.json)
            elif path.startswith("top"):
                only = lambda a: [a.json["Titles"], [len(row) for row in a.json["Processes"]]]
            elif method == "HEAD":
                pass
            e.ask(method, f"/containers/{name}" + ("" if path.startswith("?") else "/") + path.replace("SELF", name), only=only,
                  body=b"\0" * 1024 if method == "PUT" else None, timeout=4)
        for body in (None, {}, {"Cmd": []}, {"Cmd": None}, {"Cmd": ["true"]}, {"Cmd": "true"}, {"Cmd": ["true"], "User": "x y"}, {"Cmd": ["true"],
                "DetachKeys": "zzzz"}, {"Cmd": 1}):
            answer = e.post(f"/containers/{name}/exec", body)
            if answer.status == 201:
                e.names[answer.json["Id"]] = f"exec{len(e.names)}"
        for body in (None, {}, {"Memory": 1}, {"Memory": "x"}, {"RestartPolicy": {"Name": "x"}}, {"CpuShares": 200}, {"PidsLimit": 50},
                {"NanoCpus": 10**12}, {"CpusetCpus": "99"}, {"Memory": 64 << 20},
                     {"MemorySwap": 1}, {"KernelMemory": 1 << 30}, {"BlkioWeight": 1}):
            e.post(f"/containers/{name}/update", body, label=f"POST update of {name} {body}")
        for method, path in [("POST", "pause"), ("POST", "pause"), ("POST", "unpause"), ("POST", "unpause"), ("DELETE", ""), ("POST", "start"),
                ("POST", "start"), ("POST", "stop?t=0"), ("POST", "stop?t=0"), ("POST", "kill"), ("POST", "wait"),
                             ("POST", "rename?name=moved-" + state), ("DELETE", ""), ("DELETE", "")]:
            if state == "restarting" and path in ("pause", "unpause", "kill") or state == "paused" and path == "wait":
                continue
            e.ask(method, f"/containers/{name}" + (f"/{path}" if path else ""), timeout=4)


def _shape(value):
    """Types in place of values."""
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in value.items() if key not in ("stats",)}
    if isinstance(value, list):
        return [_shape(item) for item in value[:1]]
    return type(value).__name__


def start_bodies(e):
    for body in (b"{}", b'""', b'{"a":1}', b"x"):
        e.create("cc")
        e.post("/containers/cc/start", body)
        e.call("DELETE", "/containers/cc?force=1")
    for body in (b"{}", b"x"):
        e.create("cc")
        for verb in ("stop", "kill", "restart", "pause", "unpause", "rename?name=cc", "wait?condition=removed2", "resize?h=1&w=1"):
            e.post(f"/containers/cc/{verb}", body)
        e.call("DELETE", "/containers/cc?force=1")


def prune(e):
    e.create("aa", Labels={"x": "1"})
    e.create("bb", Labels={"y": "1"})
    e.run("cc")
    for filters in ('x', '[]', '{"nonsense":["1"]}', '{"until":["x"]}', '{"until":["1h","2h"]}', '{"label":["x"]}', '{"label!":["y"]}',
            '{"until":["24h"]}', ''):
        e.post("/containers/prune" + (f"?filters={filters}" if filters else "").replace('"', "%22").replace("{", "%7B").replace("}", "%7D"))
    e.post("/containers/prune", version="1.24")


def lists(e):
    e.create("first", Labels={"tier": "front", "n": "1"}, ExposedPorts={"80/tcp": {}})
    e.run("second", Labels={"tier": "back"}, HostConfig={"PortBindings": {"81/tcp": [{"HostPort": "8083"}]}, "Binds": ["vol:/data"]},
            ExposedPorts={"81/tcp": {}})
    e.ended("third", code=5)
    e.run("fourth", Healthcheck={"Test": ["CMD", "true"], "Interval": 10**12})
    e.call("POST", "/containers/fourth/pause")
    e.run("fifth", HostConfig={"NetworkMode": "none"})
    names = lambda a: [item["Names"] for item in a.json]
    ids = {name: id for id, name in e.names.items()}
    wanted = [{"ancestor": ["busybox"]}, {"ancestor": ["none"]}, {"ancestor": ["BAD"]}, {"before": ["third"]}, {"before": ["none"]},
            {"since": ["second"]}, {"since": ["none"]}, {"expose": ["80"]},
              {"expose": ["80/tcp"]}, {"expose": ["80-90"]}, {"expose": ["x"]}, {"expose": ["80/x"]}, {"publish": ["81"]}, {"publish": ["8083"]},
              {"publish": ["81/tcp"]}, {"publish": ["80-82/tcp"]}, {"publish": ["x"]}, {"exited": ["5"]},
              {"exited": ["0"]}, {"exited": ["x"]}, {"exited": ["5", "0"]}, {"health": ["none"]}, {"health": ["starting"]}, {"health": ["x"]},
              {"is-task": ["true"]}, {"is-task": ["false"]}, {"is-task": ["x"]},
              {"isolation": ["default"]}, {"isolation": ["x"]}, {"label": ["tier"]}, {"label": ["tier=front"]}, {"label": ["tier=x"]},
              {"label": ["tier", "n=1"]}, {"label": [""]}, {"name": ["ir"]}, {"name": ["^/first$"]},
              {"name": ["^first$"]}, {"name": ["["]}, {"name": ["first", "second"]}, {"name": [""]}, {"name": ["/first"]}, {"network": ["bridge"]},
              {"network": ["none"]}, {"network": ["x"]}, {"network": ["brid"]}, {"status": ["running"]}, {"status": ["paused"]},
              {"status": ["exited", "created"]}, {"status": ["x"]}, {"status": ["dead"]}, {"status": ["removing"]}, {"status": ["restarting"]},
              {"volume": ["vol"]}, {"volume": ["/data"]}, {"volume": ["x"]}, {"id": [ids["first"]]}, {"id": [ids["first"][:8]]},
              {"id": ["zz"]}, {"id": [""]}, {"role": ["x"]}, {"nonsense": ["x"]}, {"label": ["tier"], "status": ["running"]}, {"task": ["x"]},
              {"label!": ["tier"]}]
    for number, filters in enumerate(wanted):
        for flags in ("", "all=1&"):
            # The values of filters by id differ, so a question goes by its number.
            e.get(f"/containers/json?{flags}" + e.filters(**filters), only=names,
                  label=f"list {flags}{number} {filters if 'id' not in filters else 'id'}")
    for query in ("limit=2", "limit=0", "limit=-1", "limit=x", "limit=1&all=0", "all=x", "all=false", "all=0", "all=False", "all=", "size=1",
            "before=third", "since=second", "before=none"):
        e.get(f"/containers/json?{query}", only=names)
    for filters in ("x", "[]", "null", '{"status":"running"}', '{"status":{"running":true}}', '{"status":{"running":false}}', '{"status":[1]}',
            '{"status":null}', "{}", '{"status":[]}'):
        e.get("/containers/json?filters=" + filters.replace('"', "%22").replace("{", "%7B").replace("}", "%7D"), only=names)
    e.get("/containers/json?all=1&size=1")
    for version in ("1.24", "1.30", "1.41"):
        e.get("/containers/json?all=1", version=version)


def logs(e):
    e.run("cc", Cmd=["sh", "-c", "echo out; echo err >&2; sleep 1000"])
    e.run("tty", Tty=True, Cmd=["sh", "-c", "echo out; sleep 1000"])
    e.run("silent", HostConfig={"LogConfig": {"Type": "none"}})
    time.sleep(1)
    for query in ("stdout=1", "stderr=1", "stdout=1&stderr=1", "", "stdout=1&tail=1", "stdout=1&tail=x", "stdout=1&tail=-1", "stdout=1&tail=0",
            "stdout=1&since=x", "stdout=1&since=1m", "stdout=1&until=x", "stdout=1&since=1", "stdout=1&until=1",
                  "stdout=1&since=2020-01-01T00:00:00Z", "stdout=1&since=99999999999", "stdout=1&since=1.5", "stdout=1&since=-1",
                  "stdout=1&details=1", "stdout=1&since=5&until=3", "stdout=1&follow=1&until=1", "stdout=0"):
        for name in ("cc", "tty"):
            e.get(f"/containers/{name}/logs?{query}", timeout=3)
    e.get("/containers/silent/logs?stdout=1")
    e.get("/containers/none/logs?stdout=1")


def archives(e):
    e.run("cc")
    e.create("ro", HostConfig={"ReadonlyRootfs": True, "Binds": ["/tmp:/x:ro"]})
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, kind in (("file", None), ("dir", b"5")):
            entry = tarfile.TarInfo(name)
            if kind:
                entry.type = kind
            archive.addfile(entry)
    for path in ("/etc/passwd", "/etc", "/etc/", "etc", "/bin/sh", "/", ".", "/../etc", "/none/", "/etc/passwd/", "/etc/passwd/x", "/dev/null",
            "/proc/self", "x%00y"):
        answer = e.call("GET", f"/v1.41/containers/cc/archive?path={path}", timeout=60)
        e.note(f"GET archive {path}", [answer.status, answer.headers.get("content-type"), _entries(answer)])
        e.ask("HEAD", f"/containers/cc/archive?path={path}")
    for query in ("path=/tmp", "path=/etc/passwd", "path=/none", "path=/tmp&noOverwriteDirNonDir=1", "path=/tmp/file", "", "path=/tmp&copyUIDGID=1"):
        for body in (tar.getvalue(), b"nonsense", b""):
            e.ask("PUT", f"/containers/cc/archive?{query}", body, {"Content-Type": "application/x-tar"}, label=f"PUT {query} {body[:4]!r}")
    e.ask("PUT", "/containers/cc/archive?path=/", tar.getvalue(), {"Content-Type": "application/json"}, label="PUT as json")
    e.ask("PUT", "/containers/cc/archive?path=/etc&noOverwriteDirNonDir=true", tar.getvalue().replace(b"dir", b"passwd"), label="PUT")
    e.ask("PUT", "/containers/ro/archive?path=/tmp", tar.getvalue(), label="PUT into read-only")
    e.ask("PUT", "/containers/ro/archive?path=/x", tar.getvalue(), label="PUT into read-only mount")
    e.get("/containers/cc/changes", only=lambda a: sorted(a.json, key=lambda change: change["Path"]))
    e.get("/containers/none/changes")
    answer = e.call("GET", "/v1.41/containers/cc/export")
    e.note("export", [answer.status, answer.headers.get("content-type"), len(_entries(answer)) > 10])
    e.get("/containers/none/export")
    e.get("/containers/cc/changes", version="1.24", only=lambda a: sorted(a.json, key=lambda change: change["Path"]))


def _entries(answer):
    if answer.status != 200:
        return answer.body.decode("utf-8", "replace")
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
        return sorted([entry.name, entry.type.decode(), entry.mode & 0o7777, entry.linkname] for entry in archive)[:40]


def commits(e):
    e.run("cc", Labels={"a": "b"}, Env=["X=1"])
    for query, body in (("container=cc&repo=r&tag=1", None), ("container=none", None), ("", None), ("container=cc&repo=BAD", None),
            ("container=cc&repo=a&tag=b:c", None), ("container=cc&changes=NOPE+x", None), ("container=cc&changes=FROM+x", None),
                        ("container=cc&repo=r&tag=2&changes=ENV+A=1&changes=CMD+x&author=me&comment=why&pause=0", None),
                        ("container=cc&repo=r&tag=3&changes=LABEL+x=y%0AEXPOSE+80", {}),
                        ("container=cc&repo=r&tag=4", {"Cmd": ["x"], "Env": ["Y=2"], "Labels": {"c": "d"}}), ("container=cc&repo=r&tag=5", b"x"),
                        ("container=cc", {"Cmd": 1}), ("container=cc&tag=x", None)):
        e.post(f"/commit?{query}", body, headers={"Content-Type": "application/json"})
    for tag in (1, 2, 3, 4):
        e.get(f"/images/r:{tag}/json", only=lambda a: {key: value for key, value in a.json.items() if key not in ("Id", "Created", "Size",
                "VirtualSize", "RootFS", "GraphDriver", "DockerVersion", "Metadata", "Parent", "ContainerConfig")})
        e.call("DELETE", f"/images/r:{tag}")
