"""Which fields of a container's create request work, which are refused, and how: asked of a running engine, field by field.

`fields.py TABLE` compares what it finds with the table in that file, `fields.py --write TABLE` writes it. Each field of
`ContainerConfig`, `HostConfig` and `NetworkingConfig` is sent with a value that is not its default. An engine that takes the
field must show it in the container's `inspect`, and, where the probe says how to see it, in the container itself; one that
refuses it must name it. What does neither is silently ignored: that fails, unless Docker Engine too has no use for it here.
"""

import re
import sys

import docker

from client import DESCRIPTION, connect

IMAGE = "busybox:latest"


class Probe:
    """One field: the value to send, what must go along, where to see that it came to something."""

    def __init__(self, value, along=None, script=None, prints=None, shown=None, unused=None, needs=None):
        self.value, self.along = value, along or {}
        # A program, and what it prints where the field works.
        self.script, self.prints = script, prints
        # How inspect shows it, where that is not the value.
        self.shown = shown
        # Why nothing comes of it in Docker Engine on Linux either.
        self.unused = unused
        # What of the host decides whether it works.
        self.needs = needs


def config(**fields):
    return fields


def host(**fields):
    return {"HostConfig": fields}


def item(**fields):
    """What stands in the same item of a list as the field."""
    return {"item": fields}


ANSWER = "an answer's field; what a request says there is overwritten"
WINDOWS = "for Windows only"
DEVICE = "/dev/DISK"  # replaced by a disk of the host
VOLUME = item(Type="volume", Source="fields-volume", Target="/m")
BIND = item(Type="bind", Source="/tmp", Target="/m")
TMPFS = item(Type="tmpfs", Target="/m")
RATE = "blkio throttling"

PROBES = {
    "Config.Hostname": Probe("box", script="hostname", prints="box"),
    "Config.Domainname": Probe("example.org", script="cat /proc/sys/kernel/domainname", prints="example.org"),
    "Config.User": Probe("nobody", script="id -un", prints="nobody"),
    "Config.AttachStdin": Probe(True),
    "Config.AttachStdout": Probe(True),
    "Config.AttachStderr": Probe(True),
    "Config.ExposedPorts": Probe({"80/tcp": {}}),
    "Config.Tty": Probe(True, script="tty", prints="/dev/pts/0"),
    "Config.OpenStdin": Probe(True),
    "Config.StdinOnce": Probe(True, config(OpenStdin=True)),
    "Config.Env": Probe(["PROBE=1"], script="echo $PROBE", prints="1"),
    "Config.Cmd": Probe(["sh", "-c", "echo told"], prints="told"),
    "Config.Healthcheck.Test": Probe(["CMD", "true"]),
    "Config.Healthcheck.Interval": Probe(5 * 10**9, {"Healthcheck": {"Test": ["CMD", "true"]}}),
    "Config.Healthcheck.Timeout": Probe(5 * 10**9, {"Healthcheck": {"Test": ["CMD", "true"]}}),
    "Config.Healthcheck.Retries": Probe(7, {"Healthcheck": {"Test": ["CMD", "true"]}}),
    "Config.Healthcheck.StartPeriod": Probe(5 * 10**9, {"Healthcheck": {"Test": ["CMD", "true"]}}),
    "Config.Healthcheck.StartInterval": Probe(5 * 10**9, {"Healthcheck": {"Test": ["CMD", "true"]}}),
    "Config.ArgsEscaped": Probe(True),
    "Config.Image": Probe(IMAGE, prints="", script="true"),
    "Config.Volumes": Probe({"/probe": {}}, script="grep -c ' /probe ' /proc/mounts", prints="1"),
    "Config.WorkingDir": Probe("/probe", script="pwd", prints="/probe"),
    "Config.Entrypoint": Probe(["sh", "-c", "echo told"], prints="told"),
    "Config.NetworkDisabled": Probe(True, script="ls /sys/class/net", prints="lo"),
    "Config.MacAddress": Probe(
        "02:42:ac:11:00:77", shown="NetworkSettings.Networks.bridge.MacAddress",
        script="cat /sys/class/net/eth0/address", prints="02:42:ac:11:00:77",
    ),
    "Config.OnBuild": Probe(["RUN true"]),
    "Config.Labels": Probe({"probe": "1"}),
    "Config.StopSignal": Probe("SIGUSR1"),
    "Config.StopTimeout": Probe(3),
    "Config.Shell": Probe(["/bin/sh", "-x"]),
    "HostConfig.Binds": Probe(["/tmp:/probe"], script="grep -c ' /probe ' /proc/mounts", prints="1"),
    "HostConfig.ContainerIDFile": Probe("/tmp/probe-id", unused="the client writes it"),
    "HostConfig.LogConfig.Type": Probe("none"),
    "HostConfig.LogConfig.Config": Probe({"max-size": "1m"}, host(LogConfig={"Type": "json-file"})),
    "HostConfig.NetworkMode": Probe("none", script="ls /sys/class/net", prints="lo"),
    "HostConfig.PortBindings": Probe({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18080"}]}),
    "HostConfig.RestartPolicy.Name": Probe("unless-stopped"),
    "HostConfig.RestartPolicy.MaximumRetryCount": Probe(3, host(RestartPolicy={"Name": "on-failure"})),
    "HostConfig.AutoRemove": Probe(True),
    "HostConfig.VolumeDriver": Probe("local", config(Volumes={"/probe": {}})),
    "HostConfig.VolumesFrom": Probe(["fields-other"]),
    "HostConfig.Mounts[].Target": Probe("/probe", TMPFS, script="grep -c ' /probe ' /proc/mounts", prints="1"),
    "HostConfig.Mounts[].Source": Probe("fields-source", VOLUME),
    "HostConfig.Mounts[].Type": Probe("tmpfs", TMPFS, script="grep -c ' /m tmpfs' /proc/mounts", prints="1"),
    "HostConfig.Mounts[].ReadOnly": Probe(True, BIND, script="touch /m/x 2>&1; true", prints="Read-only"),
    "HostConfig.Mounts[].Consistency": Probe("cached", BIND, unused="for Docker Desktop only"),
    "HostConfig.Mounts[].BindOptions.Propagation": Probe("rslave", BIND),
    "HostConfig.Mounts[].BindOptions.NonRecursive": Probe(True, BIND),
    "HostConfig.Mounts[].BindOptions.CreateMountpoint": Probe(True, BIND),
    "HostConfig.Mounts[].BindOptions.ReadOnlyNonRecursive": Probe(True, item(ReadOnly=True, **BIND["item"])),
    "HostConfig.Mounts[].BindOptions.ReadOnlyForceRecursive": Probe(
        True, item(ReadOnly=True, BindOptions={"Propagation": "rprivate"}, **BIND["item"])
    ),
    "HostConfig.Mounts[].VolumeOptions.NoCopy": Probe(
        True, item(Type="volume", Target="/etc"), script="ls /etc/group 2>&1; true", prints="No such file"
    ),
    "HostConfig.Mounts[].VolumeOptions.Labels": Probe({"probe": "1"}, VOLUME),
    "HostConfig.Mounts[].VolumeOptions.DriverConfig.Name": Probe("local", VOLUME),
    "HostConfig.Mounts[].VolumeOptions.DriverConfig.Options": Probe(
        {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"},
        item(Type="volume", Source="fields-tmpfs", Target="/m", VolumeOptions={"DriverConfig": {"Name": "local"}}),
    ),
    "HostConfig.Mounts[].VolumeOptions.Subpath": Probe("inner", VOLUME),
    "HostConfig.Mounts[].ImageOptions.Subpath": Probe("etc", item(Type="image", Source=IMAGE, Target="/m")),
    "HostConfig.Mounts[].TmpfsOptions.SizeBytes": Probe(
        1 << 20, TMPFS, script="df /m | awk 'NR==2 {print $2}'", prints="1024"
    ),
    "HostConfig.Mounts[].TmpfsOptions.Mode": Probe(0o700, TMPFS, script="stat -c %a /m", prints="700"),
    "HostConfig.Mounts[].TmpfsOptions.Options": Probe([["noexec"]], TMPFS),
    "HostConfig.ConsoleSize": Probe([30, 90], config(Tty=True), script="stty size", prints="30 90"),
    "HostConfig.Annotations": Probe({"probe": "1"}),
    "HostConfig.CapAdd": Probe(["NET_ADMIN"], shown="caps", script="grep CapEff /proc/self/status", prints="a80435fb"),
    "HostConfig.CapDrop": Probe(["ALL"], script="grep CapEff /proc/self/status", prints="0000000000000000"),
    "HostConfig.CgroupnsMode": Probe("host"),
    "HostConfig.Dns": Probe(["10.9.8.7"], script="cat /etc/resolv.conf", prints="nameserver 10.9.8.7"),
    "HostConfig.DnsOptions": Probe(["ndots:3"], script="cat /etc/resolv.conf", prints="ndots:3"),
    "HostConfig.DnsSearch": Probe(["example.org"], script="cat /etc/resolv.conf", prints="search example.org"),
    "HostConfig.ExtraHosts": Probe(["other:10.1.2.3"], script="cat /etc/hosts", prints="10.1.2.3\tother"),
    "HostConfig.GroupAdd": Probe(["1234"], script="id -G", prints="1234"),
    "HostConfig.IpcMode": Probe("host"),
    "HostConfig.Cgroup": Probe("container:fields-other"),
    "HostConfig.Links": Probe(["fields-other:alias"], shown="links"),
    "HostConfig.OomScoreAdj": Probe(123, script="cat /proc/self/oom_score_adj", prints="123"),
    "HostConfig.PidMode": Probe("host"),
    "HostConfig.Privileged": Probe(True, script="mkdir /m && mount -t tmpfs x /m && echo may", prints="may"),
    "HostConfig.PublishAllPorts": Probe(True, config(ExposedPorts={"80/tcp": {}})),
    "HostConfig.ReadonlyRootfs": Probe(True, script="touch /x 2>&1; true", prints="Read-only"),
    "HostConfig.SecurityOpt": Probe(["no-new-privileges"], script="grep NoNewPrivs /proc/self/status", prints="1"),
    "HostConfig.StorageOpt": Probe({"size": "1G"}, needs="project quotas of the data root's file system"),
    "HostConfig.Tmpfs": Probe({"/probe": "size=1m"}, script="grep -c ' /probe tmpfs' /proc/mounts", prints="1"),
    "HostConfig.UTSMode": Probe("host"),
    "HostConfig.UsernsMode": Probe("host"),
    "HostConfig.ShmSize": Probe(8 << 20, script="df /dev/shm | awk 'NR==2 {print $2}'", prints="8192"),
    "HostConfig.Sysctls": Probe(
        {"net.ipv4.ip_unprivileged_port_start": "99"},
        script="cat /proc/sys/net/ipv4/ip_unprivileged_port_start", prints="99",
    ),
    "HostConfig.Runtime": Probe("hostd"),
    "HostConfig.Isolation": Probe("hyperv"),
    "HostConfig.MaskedPaths": Probe(["/proc/meminfo"], script="wc -c < /proc/meminfo", prints="0"),
    "HostConfig.ReadonlyPaths": Probe(["/tmp"], script="touch /tmp/x 2>&1; true", prints="Read-only"),
    "HostConfig.CpuShares": Probe(512),
    "HostConfig.Memory": Probe(
        64 << 20, prints=str(64 << 20),
        script="cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null",
    ),
    "HostConfig.CgroupParent": Probe("/fields-parent"),
    "HostConfig.BlkioWeight": Probe(300, needs="blkio weights"),
    "HostConfig.BlkioWeightDevice[].Path": Probe(DEVICE, item(Weight=300), needs="blkio weights"),
    "HostConfig.BlkioWeightDevice[].Weight": Probe(300, item(Path=DEVICE), needs="blkio weights"),
    "HostConfig.BlkioDeviceReadBps[].Path": Probe(DEVICE, item(Rate=1 << 20), needs=RATE),
    "HostConfig.BlkioDeviceReadBps[].Rate": Probe(1 << 20, item(Path=DEVICE), needs=RATE),
    "HostConfig.BlkioDeviceWriteBps[].Path": Probe(DEVICE, item(Rate=1 << 20), needs=RATE),
    "HostConfig.BlkioDeviceWriteBps[].Rate": Probe(1 << 20, item(Path=DEVICE), needs=RATE),
    "HostConfig.BlkioDeviceReadIOps[].Path": Probe(DEVICE, item(Rate=100), needs=RATE),
    "HostConfig.BlkioDeviceReadIOps[].Rate": Probe(100, item(Path=DEVICE), needs=RATE),
    "HostConfig.BlkioDeviceWriteIOps[].Path": Probe(DEVICE, item(Rate=100), needs=RATE),
    "HostConfig.BlkioDeviceWriteIOps[].Rate": Probe(100, item(Path=DEVICE), needs=RATE),
    "HostConfig.CpuPeriod": Probe(50000),
    "HostConfig.CpuQuota": Probe(20000),
    "HostConfig.CpuRealtimePeriod": Probe(1000000, needs="real-time group scheduling (cgroup v1)"),
    "HostConfig.CpuRealtimeRuntime": Probe(
        1000, host(CpuRealtimePeriod=1000000), needs="real-time group scheduling (cgroup v1)"
    ),
    "HostConfig.CpusetCpus": Probe("0", script="nproc", prints="1"),
    "HostConfig.CpusetMems": Probe("0"),
    "HostConfig.Devices[].PathOnHost": Probe(
        "/dev/zero", item(PathInContainer="/dev/probe", CgroupPermissions="r"),
        script="head -c3 /dev/probe | wc -c", prints="3",
    ),
    "HostConfig.Devices[].PathInContainer": Probe(
        "/dev/probe", item(PathOnHost="/dev/zero", CgroupPermissions="r"),
        script="head -c3 /dev/probe | wc -c", prints="3",
    ),
    "HostConfig.Devices[].CgroupPermissions": Probe("r", item(PathOnHost="/dev/zero", PathInContainer="/dev/probe")),
    "HostConfig.DeviceCgroupRules": Probe(["c 1:3 rwm"]),
    "HostConfig.DeviceRequests[].Driver": Probe("cdi", item(DeviceIDs=["nobody.example/has=this"])),
    "HostConfig.DeviceRequests[].Count": Probe(-1, item(Capabilities=[["gpu"]])),
    "HostConfig.DeviceRequests[].DeviceIDs": Probe(["nobody.example/has=this"], item(Driver="cdi")),
    "HostConfig.DeviceRequests[].Capabilities": Probe([["gpu"]], item(Count=-1)),
    "HostConfig.DeviceRequests[].Options": Probe(
        {"probe": "1"}, item(Driver="cdi", DeviceIDs=["nobody.example/has=this"])
    ),
    "HostConfig.KernelMemoryTCP": Probe(64 << 20, needs="cgroup v1"),
    "HostConfig.MemoryReservation": Probe(32 << 20),
    "HostConfig.MemorySwap": Probe(128 << 20, host(Memory=64 << 20)),
    "HostConfig.MemorySwappiness": Probe(10, needs="cgroup v1"),
    "HostConfig.NanoCpus": Probe(500000000),
    "HostConfig.OomKillDisable": Probe(True, host(Memory=64 << 20), needs="cgroup v1"),
    "HostConfig.Init": Probe(True, script="ps -o pid,comm | awk '$1==1 {print ($2 != \"sh\")}'", prints="1"),
    "HostConfig.PidsLimit": Probe(100),
    "HostConfig.Ulimits[].Name": Probe("nofile", item(Soft=512, Hard=1024), script="ulimit -n", prints="512"),
    "HostConfig.Ulimits[].Soft": Probe(512, item(Name="nofile", Hard=1024), script="ulimit -n", prints="512"),
    "HostConfig.Ulimits[].Hard": Probe(1024, item(Name="nofile", Soft=512), script="ulimit -Hn", prints="1024"),
    "HostConfig.CpuCount": Probe(2, unused=WINDOWS),
    "HostConfig.CpuPercent": Probe(50, unused=WINDOWS),
    "HostConfig.IOMaximumIOps": Probe(100, unused=WINDOWS),
    "HostConfig.IOMaximumBandwidth": Probe(1 << 20, unused=WINDOWS),
    "NetworkingConfig.EndpointsConfig.IPAMConfig.IPv4Address": Probe("172.17.0.99"),
    "NetworkingConfig.EndpointsConfig.IPAMConfig.IPv6Address": Probe("fd00::99"),
    "NetworkingConfig.EndpointsConfig.IPAMConfig.LinkLocalIPs": Probe(["169.254.1.1"]),
    "NetworkingConfig.EndpointsConfig.Links": Probe(["fields-other:alias"]),
    "NetworkingConfig.EndpointsConfig.MacAddress": Probe(
        "02:42:ac:11:00:78", script="cat /sys/class/net/eth0/address", prints="02:42:ac:11:00:78"
    ),
    "NetworkingConfig.EndpointsConfig.Aliases": Probe(["alias"]),
    "NetworkingConfig.EndpointsConfig.DriverOpts": Probe({"probe": "1"}),
    "NetworkingConfig.EndpointsConfig.GwPriority": Probe(5),
    "NetworkingConfig.EndpointsConfig.NetworkID": Probe("f" * 64, unused=ANSWER),
    "NetworkingConfig.EndpointsConfig.EndpointID": Probe("f" * 64, unused=ANSWER),
    "NetworkingConfig.EndpointsConfig.Gateway": Probe("10.0.0.1", unused=ANSWER),
    "NetworkingConfig.EndpointsConfig.IPAddress": Probe("10.0.0.2", unused=ANSWER),
    "NetworkingConfig.EndpointsConfig.IPPrefixLen": Probe(8, unused=ANSWER),
    "NetworkingConfig.EndpointsConfig.IPv6Gateway": Probe("fd00::1", unused=ANSWER),
    "NetworkingConfig.EndpointsConfig.GlobalIPv6Address": Probe("fd00::2", unused=ANSWER),
    "NetworkingConfig.EndpointsConfig.GlobalIPv6PrefixLen": Probe(64, unused=ANSWER),
    "NetworkingConfig.EndpointsConfig.DNSNames": Probe(["probe"], unused=ANSWER),
}

# The words by which a refusal names a field without its name.
NAMED = {
    "HostConfig.LogConfig.Config": "log opt",
    "HostConfig.IOMaximumIOps": "Maximum IO IOps",
    "HostConfig.IOMaximumBandwidth": "Maximum IO Bandwidth",
    "HostConfig.VolumesFrom": "fields-other",
    "HostConfig.Links": "fields-other",
    "HostConfig.Cgroup": "Cgroup",
    "HostConfig.StorageOpt": "storage-opt|storage opt|size",
    "HostConfig.Isolation": "isolation",
    "HostConfig.Mounts[].ImageOptions.Subpath": "image",
    "HostConfig.BlkioWeight": "blkio|weight",
    "HostConfig.CpuRealtimePeriod": "real-time|realtime",
    "HostConfig.CpuRealtimeRuntime": "real-time|realtime|CpuRealtime",
    "HostConfig.DeviceRequests[].Driver": "cdi|CDI|has=this|DeviceRequests",
    "HostConfig.DeviceRequests[].Count": "device driver|DeviceRequests",
    "HostConfig.DeviceRequests[].DeviceIDs": "cdi|CDI|has=this|DeviceRequests",
    "HostConfig.DeviceRequests[].Capabilities": "device driver|DeviceRequests",
    "HostConfig.DeviceRequests[].Options": "cdi|CDI|has=this|DeviceRequests",
    "NetworkingConfig.EndpointsConfig.IPAMConfig.IPv4Address": "IP address",
    "NetworkingConfig.EndpointsConfig.IPAMConfig.IPv6Address": "IP address",
    "NetworkingConfig.EndpointsConfig.IPAMConfig.LinkLocalIPs": "IP address",
    "NetworkingConfig.EndpointsConfig.Aliases": "aliases",
}


def described():
    """The fields that the description has."""
    roots = {"ContainerConfig": "Config", "HostConfig": "HostConfig", "EndpointSettings": "NetworkingConfig.EndpointsConfig"}

    def walk(schema, path):
        schema, _ = DESCRIPTION._whole(schema, "")
        items = DESCRIPTION._whole(schema.get("items", {}), "")[0]
        if schema.get("properties"):
            for name, inner in schema["properties"].items():
                yield from walk(inner, f"{path}.{name}")
        elif items.get("properties"):
            yield from walk(items, f"{path}[]")
        else:
            yield path

    return {path for root, name in roots.items() for path in walk(DESCRIPTION.definition(root), name)}


def merged(base, more):
    """Both objects in one, the second's values where both have one."""
    out = dict(base)
    for key, value in more.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def body(path, probe, disk):
    """The create request that sets the field."""
    root, _, rest = path.removeprefix("NetworkingConfig.").partition(".")
    value = probe.value
    along = {key: inner for key, inner in probe.along.items() if key != "item"}
    if "[]." in rest:
        name, _, inner = rest.partition("[].")
        entry = probe.along.get("item", {})
        for part in reversed(inner.split(".")):
            value = {part: value}
        value = {name: [merged(entry, value)]}
    else:
        for part in reversed(rest.split(".")):
            value = {part: value}
    value = {
        "Config": value,
        "HostConfig": {"HostConfig": value},
        "EndpointsConfig": {"NetworkingConfig": {"EndpointsConfig": {"bridge": value}}},
    }[root]
    request = {"Image": IMAGE, "Cmd": ["sh", "-c", probe.script or "true"], "Labels": {"fields": ""}}
    request = merged(merged(request, along), value)
    return _replace(request, DEVICE, disk)


def _replace(value, old, new):
    if isinstance(value, dict):
        return {key: _replace(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replace(inner, old, new) for inner in value]
    return new if value == old else value


def at(value, path):
    """All values at a path of the answer."""
    head, _, rest = path.partition(".")
    if head.endswith("[]"):
        items = (value or {}).get(head[:-2]) or []
        return [found for entry in items for found in at(entry, rest)]
    if not isinstance(value, dict) or head not in value:
        return []
    return at(value[head], rest) if rest else [value[head]]


def shows(found, sent):
    """Whether what inspect shows is what was sent, or holds it."""
    if isinstance(sent, dict):
        return isinstance(found, dict) and all(shows(found.get(key), value) for key, value in sent.items())
    if isinstance(sent, list) and sent and isinstance(sent[0], str):
        return isinstance(found, list) and set(sent) <= set(found)
    return found == sent


def inspected(path, probe, answer, disk):
    """Whether inspect shows the field."""
    if path == "HostConfig.CapAdd":
        return any(name.endswith("NET_ADMIN") for name in answer["HostConfig"]["CapAdd"])
    if path == "HostConfig.Links":
        return bool(answer["HostConfig"]["Links"])
    place = probe.shown or path.replace("NetworkingConfig.EndpointsConfig", "NetworkSettings.Networks.bridge")
    return any(shows(found, _replace(probe.value, DEVICE, disk)) for found in at(answer, place))


class Ignored(Exception):
    """A field that was taken and that nothing came of."""


def outcome(api, path, probe, disk):
    """How the engine takes the field: `works` or `refused`, and by which words."""
    try:
        made = api._result(api._post_json(api._url("/containers/create"), data=body(path, probe, disk)), json=True)
    except docker.errors.APIError as error:
        words = str(error.explanation).strip()
        leaf = re.split(r"[.\[]", path)
        named = any(part and part.rstrip("]") in words for part in leaf[1:]) or re.search(NAMED.get(path, "(?!)"), words)
        if error.status_code not in (400, 404, 409, 501) or not named:
            raise Ignored(f"{path} is refused without being named: {error}") from error
        if probe.unused:
            return "refused", f"{error.status_code}: {probe.unused}"
        return "refused", f"{error.status_code} {words}".replace(disk, "DISK")
    try:
        answer = api.inspect_container(made["Id"])
        told = inspected(path, probe, answer, disk)
        warned = [text for text in made["Warnings"] or [] if text]
        if probe.prints is not None:
            api.start(made["Id"])
            api.wait(made["Id"], timeout=60)
            printed = api.logs(made["Id"]).decode()
            if probe.prints not in printed:
                raise Ignored(f"{path} has no effect: {probe.script or probe.value} printed {printed!r}")
            return "works", "seen in the container" + (", and in `inspect`" if told else "")
        if probe.unused:
            return "no effect", probe.unused + ", as with Docker Engine"
        if warned and probe.needs:
            return "works", f"where the host has {probe.needs}; else a warning says so"
        if not told:
            raise Ignored(f"{path} is silently ignored")
        return "works", "in `inspect`" + (f"; needs {probe.needs}" if probe.needs else "")
    finally:
        api.remove_container(made["Id"], force=True, v=True)


HEAD = """# Fields of a create request

Every field that the description of the API (1.50) has for `POST /containers/create`, and what hostd does with it. The table
is made by sending each one, with a value that is not its default, to a running hostd: `make fields` writes it, and a test
fails when it is out of date. A field that works was seen in the container that it was asked for, or in `inspect`; how
well it works is for the other tests to show. One that is refused is named by the error, whose status and words stand here.

| field | | how |
|---|---|---|
"""


def table(client):
    """The table, and the complaints about what the engine ignores."""
    lines, complaints = [], []
    client.containers.create(IMAGE, "true", name="fields-other", labels={"fields": ""})
    disk = _disk(client)
    if client.info()["CgroupDriver"] == "systemd":
        PROBES["HostConfig.CgroupParent"] = Probe("fieldsparent.slice")
    for path, probe in PROBES.items():
        try:
            verdict, how = outcome(client.api, path, probe, disk)
        except Ignored as error:
            complaints.append(str(error))
            continue
        lines.append(f"| `{path}` | {verdict} | {_stable(how)} |")
    return HEAD + "\n".join(lines) + "\n", complaints


def comparable(lines):
    """The table's lines, of which those that depend on what the host has are there by their field alone."""
    fields = [(line, line.split("`")[1] if line.startswith("| `") else "") for line in lines]
    return [field if field in PROBES and PROBES[field].needs else line for line, field in fields]


def _stable(text):
    """Words without what differs from run to run."""
    text = re.sub(r"\b[0-9a-f]{64}\b", "ID", text)
    text = re.sub(r"/\S*/(data|hostd-\w+)\b", "DATA", text)
    return text.replace("|", "\\|").replace("\n", " ")


def _disk(client):
    """A block device of the host."""
    try:
        out = client.containers.run(IMAGE, ["sh", "-c", "ls /dev/vda /dev/sda /dev/nvme0n1 2>/dev/null; true"], privileged=True, remove=True)
        return out.decode().split()[0]
    except IndexError:
        return "/dev/loop0"


def clean_up(client):
    for container in client.containers.list(all=True, filters={"label": "fields"}):
        container.remove(force=True, v=True)
    for volume in client.volumes.list():
        if volume.name.startswith("fields-"):
            volume.remove()


def main(arguments):
    write = arguments[0] == "--write"
    path = arguments[-1]
    client = connect()
    clean_up(client)
    try:
        found, complaints = table(client)
    finally:
        clean_up(client)
    if DESCRIPTION:
        complaints += [f"no probe for {field}" for field in sorted(described() - set(PROBES))]
        complaints += [f"{field} is no field of the description" for field in sorted(set(PROBES) - described())]
    if write:
        with open(path, "w", encoding="utf-8") as file:
            file.write(found)
    else:
        with open(path, encoding="utf-8") as file:
            committed = comparable(file.read().splitlines())
        found = comparable(found.splitlines())
        complaints += [f"{path} has no line {line}" for line in found if line not in committed]
        complaints += [f"{path} is out of date: {line}" for line in committed if line not in found]
    for complaint in complaints:
        print(complaint)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
