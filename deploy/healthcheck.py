#!/usr/local/bin/python3 -IS
"""Exit 0 when a URL answers below 400 within five seconds: the health check of a container that has no curl."""

import sys
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit


def main(url: str) -> str | None:
    """What is wrong; None if nothing is."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=5)
    try:
        connection.request("GET", parts.path)
        response = connection.getresponse()
        said = response.read(2000).decode(errors="replace")
    except (OSError, HTTPException) as error:
        return f"{url}: {type(error).__name__}: {error}"
    finally:
        connection.close()
    return None if response.status < 400 else f"{url}: {response.status} {said}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
