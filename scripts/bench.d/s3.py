#!/usr/bin/env python3
"""An object store in memory that speaks as much S3 as backup tools do: `python3 s3.py`, prints its port, ends with its input.

Owns what is stored and what was asked. Refuses to check signatures, to be slow (that is link.py's part), and whatever it does not
know, with 501. Answers that it is meant to be measured with: `GET /-/counts` tells requests by verb and bytes both ways since
`POST /-/reset`, and what each prefix holds; neither counts itself.
"""

import asyncio
import hashlib
import json
import re
import sys
import time
from bisect import bisect_left, insort
from email.utils import formatdate
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

STREAM_BYTES = 1 << 20
OBJECT_BYTES = 1 << 30
VERBS = ["PUT", "GET", "HEAD", "LIST", "DELETE", "POST"]
REASONS = {100: "Continue", 200: "OK", 204: "No Content", 206: "Partial Content", 304: "Not Modified", 400: "Bad Request", 404: "Not Found",
           409: "Conflict", 412: "Precondition Failed", 416: "Range Not Satisfiable", 501: "Not Implemented"}  # fmt: skip


class Refusal(Exception):
    """An answer other than what was asked for."""

    def __init__(self, status, code):
        super().__init__(code)
        self.status, self.code = status, code


class Bucket:
    def __init__(self):
        self.objects, self.names, self.uploads = {}, [], {}

    def put(self, key, body, headers):
        here = self.objects.get(key)
        if headers.get("if-none-match") == "*" and here:
            raise Refusal(412, "PreconditionFailed")
        if "if-match" in headers and (not here or headers["if-match"] != here[1]):
            raise Refusal(412 if here else 404, "PreconditionFailed" if here else "NoSuchKey")
        if not here:
            insort(self.names, key)
        self.objects[key] = (body, f'"{hashlib.md5(body).hexdigest()}"', time.time())
        return self.objects[key]

    def get(self, key):
        if key not in self.objects:
            raise Refusal(404, "NoSuchKey")
        return self.objects[key]

    def delete(self, key):
        if self.objects.pop(key, None):
            del self.names[bisect_left(self.names, key)]

    def list(self, query):
        """One page of a listing, version 2."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = max(query.get("start-after", ""), unquote(query.get("continuation-token", "")))
        limit, url = min(int(query.get("max-keys", 1000)), 1000), query.get("encoding-type") == "url"
        spelled = (lambda text: quote(text, safe="/")) if url else escape
        keys, folders, last, more = [], {}, "", False
        at = bisect_left(self.names, max(prefix, after))
        while at < len(self.names) and self.names[at].startswith(prefix):
            key = self.names[at]
            at += 1
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            group = key[: cut + len(delimiter)] if cut >= 0 else None
            if key <= after or (group and group <= after) or group in folders:
                continue
            if len(keys) + len(folders) == limit:
                more = True
                break
            last = group or key
            if group:
                folders[group] = True
            else:
                keys.append(key)
        text = ['<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">']
        text.append(f"<Prefix>{spelled(prefix)}</Prefix><KeyCount>{len(keys) + len(folders)}</KeyCount><MaxKeys>{limit}</MaxKeys>")
        text.append(f"<Delimiter>{spelled(delimiter)}</Delimiter>" if delimiter else "")
        text.append("<EncodingType>url</EncodingType>" if url else "")
        text.append(f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>")
        text.append(f"<NextContinuationToken>{quote(last)}</NextContinuationToken>" if more else "")
        for key in keys:
            body, tag, when = self.objects[key]
            changed = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(when))
            text.append(f"<Contents><Key>{spelled(key)}</Key><LastModified>{changed}</LastModified><ETag>{escape(tag)}</ETag>")
            text.append(f"<Size>{len(body)}</Size><StorageClass>STANDARD</StorageClass></Contents>")
        text += [f"<CommonPrefixes><Prefix>{spelled(folder)}</Prefix></CommonPrefixes>" for folder in folders]
        return "".join(text + ["</ListBucketResult>"]).encode()


def part(body, wanted):
    """What `Range` asks of a body: (status, slice, content range or None)."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if not match or match.group(0) == "bytes=-":
        return 200, body, None
    first, last = match.groups()
    if first:
        start, end = int(first), min(int(last or len(body) - 1), len(body) - 1)
    else:
        start, end = max(0, len(body) - int(last)), len(body) - 1
    if start >= len(body) or start > end:
        raise Refusal(416, "InvalidRange")
    return 206, memoryview(body)[start : end + 1], f"bytes {start}-{end}/{len(body)}"


class Server:
    def __init__(self):
        self.buckets, self.open = {}, 0
        self.reset()

    def reset(self):
        self.counts = dict.fromkeys(VERBS, 0)
        self.received, self.sent, self.open_max = 0, 0, self.open

    def report(self):
        held = {}
        for name, bucket in self.buckets.items():
            for key, (body, _, _) in bucket.objects.items():
                prefix = f"{name}/{key.split('/')[0]}"
                held[prefix] = held.get(prefix, 0) + len(body)
        sums = {"requests": self.counts, "received_bytes": self.received, "sent_bytes": self.sent, "connections": self.open_max}
        return json.dumps(sums | {"held_bytes": held}).encode()

    async def body(self, reader, writer, headers):
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in headers.get("transfer-encoding", ""):
            pieces = []
            while size := int((await reader.readline()).split(b";")[0], 16):
                pieces.append(await reader.readexactly(size))
                await reader.readline()
            while (await reader.readline()).strip():
                pass
            body = b"".join(pieces)
        else:
            length = int(headers.get("content-length", 0))
            if length > OBJECT_BYTES:
                raise Refusal(400, "EntityTooLarge")
            body = await reader.readexactly(length)
        self.received += len(body)
        if headers.get("x-amz-content-sha256", "").startswith("STREAMING-") or "aws-chunked" in headers.get("content-encoding", ""):
            pieces, at = [], 0
            while True:
                end = body.index(b"\r\n", at)
                size = int(body[at:end].split(b";")[0], 16)
                if not size:
                    return b"".join(pieces)
                pieces.append(body[end + 2 : end + 2 + size])
                at = end + 4 + size
        return body

    async def serve(self, reader, writer):
        counted = False
        try:
            while line := await reader.readline():
                method, target, _ = line.decode("ascii").split(" ", 2)
                headers = {}
                while (line := await reader.readline()).strip():
                    name, _, value = line.decode("latin-1").partition(":")
                    headers[name.strip().lower()] = value.strip()
                ours = target.startswith("/-/")
                if not ours and not counted:
                    counted, self.open = True, self.open + 1
                self.open_max = max(self.open_max, self.open)
                try:
                    body = await self.body(reader, writer, headers)
                    status, more, answer = self.answer(method, target, headers, body)
                except Refusal as refusal:
                    status, more = refusal.status, {"Content-Type": "application/xml"}
                    answer = f"<Error><Code>{refusal.code}</Code><Message>{refusal.code}</Message></Error>".encode()
                length = more.pop("Content-Length", len(answer))
                if method == "HEAD":
                    answer = b""
                head = {"Content-Length": length, "Date": formatdate(usegmt=True), "x-amz-request-id": "0"} | more
                lines = [f"HTTP/1.1 {status} {REASONS[status]}", *(f"{name}: {value}" for name, value in head.items())]
                writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
                self.sent += 0 if ours else len(answer)
                writer.write(answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side left, or the server ends
        finally:
            self.open -= counted
            writer.close()

    def answer(self, method, target, headers, body):
        """What one request gets: (status, headers, body)."""
        path, _, asked = target.partition("?")
        if path.startswith("/-/"):
            if method == "POST":
                self.reset()
            return 200, {}, self.report()
        query = {name: values[0] for name, values in parse_qs(asked, keep_blank_values=True).items()}
        name, _, key = unquote(path).lstrip("/").partition("/")
        self.counts["LIST" if method == "GET" and not key else method if method in VERBS else "POST"] += 1
        if method == "PUT" and not key:
            self.buckets.setdefault(name, Bucket())
            return 200, {}, b""
        if name not in self.buckets:
            raise Refusal(404, "NoSuchBucket")
        bucket = self.buckets[name]
        if not key:
            return self.answer_bucket(bucket, method, query, body)
        if "uploads" in query or "uploadId" in query:
            return self.answer_upload(bucket, method, key, query, headers, body)
        if query.keys() - {"x-id", "versionId"}:
            raise Refusal(501, "NotImplemented")
        if method == "PUT":
            source = headers.get("x-amz-copy-source")
            if source:
                body = bucket.get(unquote(source).lstrip("/").partition("/")[2])[0]
            _, tag, _ = bucket.put(key, body, headers)
            return 200, {"ETag": tag}, f"<CopyObjectResult><ETag>{escape(tag)}</ETag></CopyObjectResult>".encode() if source else b""
        if method == "DELETE":
            bucket.delete(key)
            return 204, {}, b""
        if method not in ("GET", "HEAD"):
            raise Refusal(501, "NotImplemented")
        content, tag, when = bucket.get(key)
        if headers.get("if-match", tag) not in (tag, "*"):
            raise Refusal(412, "PreconditionFailed")
        if headers.get("if-none-match") == tag:
            return 304, {"ETag": tag}, b""
        status, content, place = part(content, headers.get("range"))
        more = {"ETag": tag, "Last-Modified": formatdate(when, usegmt=True), "Accept-Ranges": "bytes", "Content-Length": len(content)}
        return status, more | ({"Content-Range": place} if place else {}), content

    def answer_bucket(self, bucket, method, query, body):
        if method == "HEAD":
            return 200, {}, b""
        if method == "GET" and "location" in query:
            return 200, {}, b'<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/">us-east-1</LocationConstraint>'
        if method == "GET" and query.get("list-type") == "2":
            return 200, {"Content-Type": "application/xml"}, bucket.list(query)
        if method == "POST" and "delete" in query:
            for key in re.findall(rb"<Key>(.*?)</Key>", body):
                bucket.delete(key.decode().replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&"))
            return 200, {"Content-Type": "application/xml"}, b"<DeleteResult></DeleteResult>"
        raise Refusal(501, "NotImplemented")

    def answer_upload(self, bucket, method, key, query, headers, body):
        """An object that comes in parts."""
        xml, name = {"Content-Type": "application/xml"}, query.get("uploadId")
        if method == "POST" and name is None:
            name = f"upload-{len(bucket.uploads)}"
            bucket.uploads[name] = {}
            told = f"<Key>{escape(key)}</Key><UploadId>{name}</UploadId>"
            return 200, xml, f"<InitiateMultipartUploadResult>{told}</InitiateMultipartUploadResult>".encode()
        if bucket.uploads.get(name) is None:
            raise Refusal(404, "NoSuchUpload")
        if method == "PUT":
            bucket.uploads[name][int(query["partNumber"])] = body
            return 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b""
        parts = bucket.uploads[name]
        if method == "POST":
            _, tag, _ = bucket.put(key, b"".join(parts[number] for number in sorted(parts)), headers)
        bucket.uploads[name] = None
        if method == "DELETE":
            return 204, {}, b""
        done = f"<Key>{escape(key)}</Key><ETag>{escape(tag)}</ETag>"
        return 200, xml, f"<CompleteMultipartUploadResult>{done}</CompleteMultipartUploadResult>".encode()


async def main():
    server = await asyncio.start_server(Server().serve, "127.0.0.1", 0, limit=STREAM_BYTES)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
