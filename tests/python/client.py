"""docker-py, with every answer that it gets held against the API description."""

import json
import os
from urllib.parse import urlsplit

import docker

from description import Description

DESCRIPTION = Description.beside_the_checkout()

# requests prefers these to the CA that docker-py names to it.
for _name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
    os.environ.pop(_name, None)


class ValidatingClient(docker.APIClient):
    """An `APIClient` that raises `Misfit` for an answer that the description does not allow."""

    def send(self, request, **kwargs):
        response = super().send(request, **kwargs)
        path = urlsplit(request.url).path
        if DESCRIPTION is None or not path.startswith("/v1."):
            return response
        if kwargs.get("stream") and response.status_code < 400:
            # The body is the caller's to read.
            DESCRIPTION.check_status(request.method, path, response.status_code)
            return response
        if "json" in response.headers.get("Content-Type", ""):
            body = _decode(response.content)
            DESCRIPTION.check(request.method, path, response.status_code, body)
        else:
            DESCRIPTION.check_status(request.method, path, response.status_code)
        return response

    def _stream_helper(self, response, decode=False):
        path = urlsplit(response.request.url).path
        schema = DESCRIPTION and DESCRIPTION.check_status(response.request.method, path, response.status_code)
        for item in super()._stream_helper(response, decode):
            if schema and decode:
                DESCRIPTION.check(response.request.method, path, response.status_code, item)
            yield item


def _decode(content):
    """The JSON value, the last one of a stream of them."""
    text = content.decode()
    return json.loads(text) if text.count("\n") < 2 else json.loads(text.strip().rpartition("\n")[2])


def connect(**options):
    """A client for what `DOCKER_HOST` and its companions name."""
    client = docker.DockerClient.from_env(**options)
    settings = docker.utils.kwargs_from_env()
    settings.update(options)
    settings.setdefault("timeout", 120)
    client.api.close()
    client.api = ValidatingClient(version=settings.pop("version", os.environ.get("DOCKER_API_VERSION", "1.50")), **settings)
    return client
