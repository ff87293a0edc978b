"""Exec, attach, wait, and the two ways in which a connection is taken over."""
import json, time

UPGRADE = {"Upgrade": "tcp", "Connection": "Upgrade"}


def exec_life(e):
    e.run("cc")
    for body in ({"AttachStdout": True, "AttachStderr": True, "Cmd": ["sh", "-c", "echo a; echo b >&2; exit 3"]}, {"AttachStdout": True, "Tty": True,
            "Cmd": ["echo", "x"]}, {"Cmd": ["true"]}, {"Cmd": ["no-such"]},
                 {"Cmd": ["true"], "User": "nobody-such"}, {"Cmd": ["true"], "WorkingDir": "/none"}, {"Cmd": ["true"], "Env": ["A=1"],
                 "Privileged": True, "User": "1:1", "WorkingDir": "/tmp", "DetachKeys": "ctrl-a"}, {"Cmd": ["/etc/passwd"]}):
        id = e.exec("cc", **body)
        e.get(f"/exec/{id}/json", label=f"made {body}")
        for headers in ({}, UPGRADE):
            e.post(f"/exec/{id}/start", {"Detach": False, "Tty": body.get("Tty", False)}, headers=headers, label=f"start {body} {headers}")
        time.sleep(0.3)
        e.get(f"/exec/{id}/json", label=f"ended {body}")
        e.post(f"/exec/{id}/resize?h=1&w=1", label="resize an ended one")
    for version in ("1.24", "1.35", "1.41"):
        id = e.exec("cc", Cmd=["true"], AttachStdout=True)
        e.get(f"/exec/{id}/json", version=version, label=f"inspect {version}")
    for body in (None, b"", b"x", b"null", {}, {"Detach": True}, {"Detach": "x"}, {"Detach": True, "Tty": True}, {"Detach": False, "Tty": True},
            {"detach": True}):
        id = e.exec("cc", Cmd=["true"], AttachStdout=True)
        e.post(f"/exec/{id}/start", body, headers={"Content-Type": "application/json"}, label=f"start by {body}")
    id = e.exec("cc", Cmd=["true"], AttachStdout=True)
    e.post(f"/exec/{id}/start", {}, headers={"Content-Type": "text/plain"}, label="start as text")
    e.post(f"/exec/{id}/start", b"{}", headers={"Content-Type": None}, label="start without a type")


def exec_errors(e):
    e.run("cc")
    for path in ("/exec/none/json", "/exec/none/start", "/exec/none/resize?h=1&w=1", "/exec/none/resize", "/exec//json"):
        e.ask("GET" if path.endswith("json") else "POST", path, None if path.endswith("json") else {})
    id = e.exec("cc", Cmd=["sleep", "1000"], Tty=True, AttachStdout=True)
    e.post(f"/exec/{id}/resize?h=1&w=1", label="resize before start")
    e.post(f"/exec/{id}/start", {"Detach": True, "Tty": True}, label="start")
    for query in ("h=1&w=1", "h=1", "w=1", "", "h=x&w=1", "h=-1&w=1", "h=1&w=99999999999"):
        e.post(f"/exec/{id}/resize?{query}", label=f"resize {query}")
    e.post(f"/exec/{id}/start", {"Detach": True}, label="start again")
    waiting = e.exec("cc", Cmd=["true"], AttachStdout=True)
    e.call("POST", "/containers/cc/pause")
    e.post(f"/exec/{waiting}/start", {}, label="start in a paused one")
    e.call("POST", "/containers/cc/unpause")
    e.call("POST", "/containers/cc/stop?t=0")
    e.post(f"/exec/{waiting}/start", {}, label="start in a stopped one")
    e.post(f"/exec/{waiting}/start", {"Detach": True}, label="start in a stopped one, detached")
    e.get(f"/exec/{waiting}/json", label="inspect in a stopped one")
    e.call("POST", "/containers/cc/start")
    e.get(f"/exec/{waiting}/json", label="inspect after a new start")
    for kind in (None, "text/plain", "application/json;charset=utf-8"):
        e.post("/containers/cc/exec", b'{"Cmd":["true"]}', headers={"Content-Type": kind}, only=lambda a: list(a.json))
    for body in (b"", b"x", b"null", b"[]", {"Cmd": ["true"], "Env": ["=x"]}, {"Cmd": [""]}, {"Cmd": ["true"], "AttachStdin": "x"}, {"cmd": ["true"]},
            {"Cmd": ["true"], "ConsoleSize": [1, 2]}, {"Cmd": ["true"], "Tty": True, "ConsoleSize": [1]}):
        e.post("/containers/cc/exec", body, headers={"Content-Type": "application/json"}, only=lambda a: list(a.json))
    e.call("DELETE", "/containers/cc?force=1")
    e.get(f"/exec/{waiting}/json", label="inspect of a removed one")


def attach(e):
    e.run("cc", Cmd=["sh", "-c", "echo out; echo err >&2; sleep 1"])
    e.post("/containers/cc/attach?logs=1&stream=1&stdout=1&stderr=1")
    e.post("/containers/cc/attach?logs=1&stdout=1&stderr=1", headers=UPGRADE)
    e.run("tty", Tty=True, Cmd=["sh", "-c", "echo out; sleep 1"])
    e.post("/containers/tty/attach?logs=1&stream=1&stdout=1", headers=UPGRADE)
    e.post("/containers/tty/attach?stream=1&stdout=1", label="attach to an ended one")
    e.create("new")
    for query in ("", "stream=1&stdout=1&detachKeys=zzzz", "stream=1&stdin=1&stdout=1&detachKeys=ctrl-x", "logs=1&stdout=1"):
        e.post(f"/containers/new/attach?{query}", headers=UPGRADE, timeout=2)
    e.post("/containers/none/attach?stream=1&stdout=1", headers=UPGRADE)
    e.post("/containers/none/attach?stream=1&stdout=1")
    e.run("paused")
    e.call("POST", "/containers/paused/pause")
    e.post("/containers/paused/attach?stream=1&stdout=1", headers=UPGRADE)
    e.get("/containers/none/attach/ws?stream=1")
    key = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13",
    "Origin": "http://localhost"}
    e.get("/containers/none/attach/ws?stream=1", headers=key)
    e.get("/containers/paused/attach/ws?stream=1", headers=key)
    e.get("/containers/new/attach/ws?stream=1&detachKeys=zzzz", headers=key)


def waits(e):
    e.ended("ended", code=4)
    e.create("new")
    for version in ("1.24", "1.29", "1.30", "1.41"):
        e.post("/containers/ended/wait", version=version)
        e.post("/containers/none/wait", version=version)
    for query in ("", "?condition=not-running", "?condition="):
        e.post(f"/containers/new/wait{query}", timeout=3)
    for condition in ("next-exit", "removed"):
        e.post(f"/containers/new/wait?condition={condition}", timeout=1)
    e.run("gone", Cmd=["sh", "-c", "sleep 1; exit 6"], HostConfig={"AutoRemove": True})
    e.post("/containers/gone/wait?condition=removed")
    e.post("/containers/gone/wait?condition=removed")
    e.run("next", Cmd=["sh", "-c", "sleep 1; exit 6"])
    e.post("/containers/next/wait?condition=next-exit")


def stats(e):
    import cases_containers as c
    e.run("cc", HostConfig={"Memory": 64 << 20})
    for query in ("stream=0", "stream=0&one-shot=1", "stream=1&one-shot=1"):
        e.get(f"/containers/cc/stats?{query}", only=lambda a: c._shape(a.json), timeout=5)
    e.get("/containers/none/stats?stream=0")
    e.get("/containers/none/stats")
    e.create("new")
    e.get("/containers/new/stats?stream=0", label="stats of one that never ran")
    e.get("/containers/new/stats?stream=0&one-shot=1", version="1.40")


def health(e):
    e.run("cc", Healthcheck={"Test": ["CMD-SHELL", "echo fine; exit 0"], "Interval": 10**9, "Timeout": 10**10, "Retries": 1})
    e.run("bad", Healthcheck={"Test": ["CMD-SHELL", "echo bad; exit 2"], "Interval": 10**9, "Retries": 1})
    e.run("off", Healthcheck={"Test": ["NONE"]})
    for _ in range(100):
        if all(e.call("GET", f"/containers/{name}/json").json["State"]["Health"]["Status"] != "starting" for name in ("cc", "bad")):
            break
        time.sleep(0.1)
    for name in ("cc", "bad"):
        e.get(f"/containers/{name}/json", only=lambda a: [a.json["State"]["Health"]["Status"], a.json["State"]["Health"]["Log"][0],
                a.json["Config"]["Healthcheck"]])
        e.get("/containers/json?" + e.filters(name=[f"^/{name}$"]), only=lambda a: a.json[0]["Status"].split("(")[-1], label=f"listed {name}")
    e.call("POST", "/containers/cc/pause")
    e.get("/containers/cc/json", only=lambda a: a.json["State"]["Health"]["Status"], label="health of a paused one")
    e.call("POST", "/containers/cc/unpause")
    e.call("POST", "/containers/cc/stop?t=0")
    e.get("/containers/cc/json", only=lambda a: a.json["State"]["Health"]["Status"], label="health of a stopped one")
    e.get("/containers/off/json", only=lambda a: [a.json["State"].get("Health", "absent"), a.json["Config"]["Healthcheck"]])
