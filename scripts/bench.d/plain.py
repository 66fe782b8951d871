"""Bytes to a store and back by nothing but PUT and GET: what a line really carries, for others to be compared with.

Owns the plainest of transfers: objects of 16 MiB over a few connections at once, no hash, no file, no retry. Refuses to interpret an
answer that is not the expected one.
"""

import http.client
import threading
import time

OBJECT_BYTES = 16 << 20
CONNECTIONS = 8


def sizes(total):
    """Objects that hold `total` bytes."""
    whole, rest = divmod(total, OBJECT_BYTES)
    return [OBJECT_BYTES] * whole + ([rest] if rest else [])


def transfer(port, verb, bucket, total):
    """Seconds that `total` bytes took. Uploaded objects lie under `plain/`; a download wants an upload of as many before it."""
    todo = list(enumerate(sizes(total)))[::-1]
    content, failures, turn = memoryview(bytes(OBJECT_BYTES)), [], threading.Lock()

    def work():
        connection = http.client.HTTPConnection("127.0.0.1", port)
        buffer = bytearray(1 << 20)
        try:
            while True:
                with turn:
                    if not todo or failures:
                        return
                    number, size = todo.pop()
                connection.request(verb, f"/{bucket}/plain/{number}", body=content[:size] if verb == "PUT" else None)
                answer, got = connection.getresponse(), 0
                while taken := answer.readinto(buffer):
                    got += taken
                if answer.status != 200 or (verb == "GET" and got != size):
                    raise http.client.HTTPException(f"{verb} {number}: {answer.status}, {got} bytes")
        except (OSError, http.client.HTTPException) as failure:
            failures.append(failure)
        finally:
            connection.close()

    workers = [threading.Thread(target=work) for _ in range(min(CONNECTIONS, len(todo)))]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - start
