"""Checks answers against the published description of the API (Swagger 2.0), where that lies beside the checkout.

An answer fits when its status is one that the description lists for the operation, and its body has the types that it
gives, every field that it requires, and no field that it does not know. What Docker Engine itself does otherwise than
its description says stands in the tables here, each with its reason: clients are written for the engine.
"""

import json
import os
import re
import threading

import yaml

BESIDE = os.path.join(os.path.dirname(__file__), "../../../shared/docker-api/v1.50.yaml")

# Statuses that any operation may answer with, listed or not: Docker Engine gives 400 for a request that cannot be read
# and 409 for what the state of its object does not allow, and hostd 501 by name for what it does not do.
ANYWHERE = {400, 409, 501}

# Fields, by the definition's or the operation's name, that Docker Engine sends though its description lacks them.
MORE_FIELDS = {
    # Kept for clients from before `Actor`.
    "EventMessage": {"status", "id", "from"},
}

# Fields that Docker Engine sends null in, though its description does not say so: Go's nil slices, maps and pointers.
# Each was seen in an answer of Docker Engine's.
NULLS = {
    f"{definition}.{field}"
    for definition, fields in {
        "": "BuildCache ContainersDeleted ExitCode ImagesDeleted NetworksDeleted VolumesDeleted",
        "ContainerBlkioStats": "io_service_bytes_recursive",
        "ContainerConfig": "Cmd Entrypoint Env OnBuild Volumes",
        "ContainerInspectResponse": "ExecIDs",
        "ContainerUpdateResponse": "Warnings",
        "DeviceRequest": "Capabilities Count DeviceIDs Options",
        "DriverData": "Data",
        "EndpointSettings": "Aliases DNSNames Links",
        "HostConfig": "Binds BlkioDeviceReadBps BlkioDeviceReadIOps BlkioDeviceWriteBps BlkioDeviceWriteIOps"
        " BlkioWeightDevice CapAdd CapDrop DeviceCgroupRules DeviceRequests Devices Dns DnsOptions DnsSearch ExtraHosts"
        " GroupAdd Links MemorySwappiness OomKillDisable PidsLimit SecurityOpt Ulimits VolumesFrom"
        # Of a privileged container.
        " MaskedPaths ReadonlyPaths",
        "IPAM": "Config Options",
        "ImageConfig": "Cmd Entrypoint Env Labels OnBuild Volumes",
        "ImageSummary": "Labels RepoDigests",
        "PluginsInfo": "Authorization",
        "SystemInfo": "DriverStatus Warnings",
        "Volume": "Labels Options",
        "VolumeListResponse": "Warnings",
    }.items()
    for field in fields.split()
} | {"GenericResources", "PortMap"}


class Misfit(AssertionError):
    """An answer that does not fit the description."""


class Description:
    """The description, and how many answers it was held against."""

    def __init__(self, text):
        self._root = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self._operations = [self._operation(path) for path in self._root["paths"]]
        # `/images/json` before `/images/{name}`.
        self._operations.sort(key=lambda entry: (entry[0].count("{"), -len(entry[0])))
        self._lock = threading.Lock()
        self.checked = 0

    @classmethod
    def beside_the_checkout(cls):
        """The description, or None where there is no such file."""
        path = os.environ.get("DOCKER_API_DESCRIPTION", BESIDE)
        try:
            with open(path, encoding="utf-8") as file:
                return cls(file.read())
        except FileNotFoundError:
            print(f"skipped: answers are not validated, as there is no API description at {path}")
            return None

    @staticmethod
    def _operation(path):
        # Names of images hold slashes.
        name = "(?:.+)" if path.startswith(("/images/", "/distribution/")) else "(?:[^/]+)"
        pattern = "/?" + name.join(re.escape(part) for part in re.split(r"\{[^}]*\}", path.lstrip("/")))
        return path, re.compile(pattern)

    def operation(self, method, path):
        """The operation's name and its responses, None for a path of another version or outside the API."""
        version = re.match(r"/v(\d+\.\d+)(?=/)", path)
        if version:
            if version[1] != self._root["info"]["version"]:
                return None
            path = path[version.end():]
        for name, pattern in self._operations:
            if pattern.fullmatch(path) and method.lower() in self._root["paths"][name]:
                return f"{method} {name}", self._root["paths"][name][method.lower()]
        raise Misfit(f"{method} {path} is no operation of the description")

    def check_status(self, method, path, status):
        """The schema of the body that goes with that status, None where it has none."""
        found = self.operation(method, path)
        if not found:
            return None
        name, operation = found
        responses = {str(key): value for key, value in operation["responses"].items()}
        response = responses.get(str(status))
        if response is None:
            if status not in ANYWHERE and not (status == 101 and "200" in responses):
                raise Misfit(f"{name} answered {status}, which is none of {sorted(responses)}")
            return {"$ref": "#/definitions/ErrorResponse"} if status >= 400 else None
        return response.get("schema")

    def check(self, method, path, status, body):
        """Raises `Misfit` where the status or the (decoded) JSON body of an answer does not fit."""
        schema = self.check_status(method, path, status)
        if schema is not None:
            self.check_value(schema, body, f"{method} {path} -> {status}: ")
        with self._lock:
            self.checked += 1

    def check_value(self, schema, value, where="", at=""):
        """Raises `Misfit` where the value does not fit the schema."""
        problems = list(self._misfits(schema, value, at))
        if problems:
            raise Misfit(where + "; ".join(problems) + f"\n{json.dumps(value)[:2000]}")

    def definition(self, name):
        """A schema by name."""
        return self._root["definitions"][name]

    def _whole(self, schema, at):
        """The schema with references followed and `allOf` put together, and the path that it starts."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            inner, at = self._whole(self._root["definitions"][name], name)
            nullable = schema.get("x-nullable", inner.get("x-nullable", False))
            return {**inner, "x-nullable": nullable}, at
        if "allOf" not in schema:
            return schema, at
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        merged["properties"] = dict(schema.get("properties", {}))
        merged["required"] = list(schema.get("required", []))
        for part in schema["allOf"]:
            inner, name = self._whole(part, at)
            at = at or name
            merged["properties"] = {**inner.get("properties", {}), **merged["properties"]}
            merged["required"] += inner.get("required", [])
            merged.setdefault("type", inner.get("type", "object"))
            if "additionalProperties" in inner:
                merged.setdefault("additionalProperties", inner["additionalProperties"])
            if inner.get("x-nullable"):
                merged.setdefault("x-nullable", True)
        return merged, at

    def _misfits(self, schema, value, at):
        schema, at = self._whole(schema, at)
        if value is None:
            if not (schema.get("x-nullable") or at in NULLS):
                yield f"{at or 'the body'} is null"
            return
        kind = schema.get("type", "object" if "properties" in schema else None)
        fits = {
            "object": lambda: isinstance(value, dict),
            "array": lambda: isinstance(value, list),
            "string": lambda: isinstance(value, str),
            "boolean": lambda: isinstance(value, bool),
            "integer": lambda: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda: isinstance(value, (int, float)) and not isinstance(value, bool),
        }
        if kind in fits and not fits[kind]():
            yield f"{at or 'the body'} is {json.dumps(value)[:200]}, which is no {kind}"
        elif kind == "object":
            yield from self._misfits_of_object(schema, value, at)
        elif kind == "array":
            for item in value:
                yield from self._misfits(schema.get("items", {}), item, f"{at}[]")
        else:
            yield from self._misfits_of_scalar(schema, value, at)

    @staticmethod
    def _misfits_of_scalar(schema, value, at):
        if "enum" in schema and value not in schema["enum"]:
            yield f"{at} is {value!r}, which is none of {schema['enum']}"
        if isinstance(value, int) and not isinstance(value, bool):
            if "minimum" in schema and value < schema["minimum"] or "maximum" in schema and value > schema["maximum"]:
                yield f"{at} is {value}, which is out of bounds"
            bits = {"int64": 64, "int32": 32, "uint64": 65, "uint32": 33, "uint16": 17, "uint8": 9}.get(schema.get("format"))
            if bits and not -(1 << bits - 1) <= value < 1 << bits - 1:
                yield f"{at} is {value}, which is no {schema['format']}"
        if schema.get("format") == "dateTime" and value and not re.fullmatch(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", value
        ):
            yield f"{at} is {value!r}, which is no time as RFC 3339 has it"

    def _misfits_of_object(self, schema, value, at):
        known = schema.get("properties", {})
        others = schema.get("additionalProperties")
        for name in schema.get("required", []):
            if name not in value:
                yield f"{at} lacks {name}"
        for name, inner in value.items():
            place = f"{at}.{name}"
            if name in known:
                yield from self._misfits(known[name], inner, place)
            elif isinstance(others, dict):
                yield from self._misfits(others, inner, f"{at}{{}}")
            elif known and others is None and name not in MORE_FIELDS.get(at, ()):
                yield f"{at} has {name}, which the description does not know"
