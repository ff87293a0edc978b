"""What two answers differ in, once what must differ (ids, times, addresses of memory) is made the same."""
import base64, json, re

HEADERS = ("content-type", "connection", "upgrade", "docker-experimental", "ostype", "cache-control", "pragma",
           "x-docker-container-path-stat", "builder-version", "allow")
SINGLE = ("Created", "Pid", "NFd", "NGoroutines", "Size", "VirtualSize", "SizeRootFs", "LayersSize")
PATTERNS = [(re.compile(pattern), name) for pattern, name in [
    (r"\b[0-9a-f]{64}\b", "<id>"),
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "<time>"),
    (r"\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b", "<mac>"),
    (r"\b172\.17\.0\.([2-9]|\d\d+)\b", "<ip>"),
    (r"\b(Up|Exited \(\d+\)) (Less than a second|\d+ seconds?)", r"\1 <age>"),
]]


def plain(engine, text):
    """Text without what is the engine's own."""
    for id, name in engine.names.items():
        text = text.replace(id, f"<{name}>").replace(id[:12], f"<{name}>")
    text = text.replace(engine.root, "<root>")
    text = text.replace("0001-01-01T00:00:00Z", "<never>")
    for pattern, name in PATTERNS:
        text = pattern.sub(name, text)
    return text


def values(engine, answer):
    """An answer as pairs of a path and a value."""
    pairs = {"status": answer.status}

    for key, value in answer.headers.items():
        if key.lower() in HEADERS:
            value = json.dumps(json.loads(base64.b64decode(value)), sort_keys=True) if key.endswith("-stat") else value
            pairs[f"header {key.lower()}"] = plain(engine, value)
    text = plain(engine, answer.body.decode("utf-8", "backslashreplace"))
    try:
        flatten(json.loads(text), "", pairs)
    except ValueError:
        pairs["body"] = text
    return pairs


def flatten(value, path, pairs):
    """Leaves by their path."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            flatten(item, f"{path}.{key}", pairs)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            flatten(item, f"{path}[{index}]", pairs)
    else:
        # Numbers that mean nothing but themselves.
        single = path.rpartition(".")[2] in SINGLE and isinstance(value, int)
        pairs[path or "."] = f"<{value > 0}>" if single else value


def differences(one, other, question, mine, theirs):
    """Lines `question | path | value here | value there`."""
    here, there = values(one, mine), values(other, theirs)
    found = []
    for path in dict.fromkeys([*here, *there]):
        a, b = (json.dumps(side[path]) if path in side else "-" for side in (here, there))
        if a != b:
            found.append(f"{question} | {path} | {a} | {b}")
    return found
