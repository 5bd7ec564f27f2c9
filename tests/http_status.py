"""What servers of pages answer to methods that would change something."""

from http.client import HTTPConnection

WRITING = ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "NONSENSE")
"""methods other than those that read"""


def status(port: int, method: str, path: str) -> int:
    """The status that the server on `port` answers with."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body=b"x" * 1000)
    return connection.getresponse().status
