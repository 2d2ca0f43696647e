"""An independent client of object stores, for the tests: boto3 for S3, azure-storage-blob for Azure,
plain requests for the fake of Google's XML API.

Reads a JSON list a line, [SCHEME, ENDPOINT, BUCKET, ACTION, ARGUMENT...], and answers each with a line of
JSON: {"ok": RESULT} or {"error": TEXT}. Actions: bucket | put KEY FILE | get KEY FILE | head KEY |
delete KEY | list [PREFIX] | begin KEY | part KEY ID NUMBER FILE | parts KEY ID | uploads KEY |
publish KEY.
What is not there is null.
"""

import json
import sys
import urllib.error
import urllib.request

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class S3:
    def __init__(self, endpoint, bucket):
        import boto3
        from botocore.config import Config

        self.bucket = bucket
        self.client = boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="AKVMFERRYTEST",
            aws_secret_access_key="s3cret-of-the-tests",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )

    def make(self):
        self.client.create_bucket(Bucket=self.bucket)

    def put(self, key, file):
        with open(file, "rb") as body:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=body)

    def get(self, key, file):
        self.client.download_file(self.bucket, key, file)

    def head(self, key):
        from botocore.exceptions import ClientError

        try:
            head = self.client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        return {"size": head["ContentLength"], "metadata": head.get("Metadata", {}), "etag": head["ETag"]}

    def delete(self, key):
        self.client.delete_object(Bucket=self.bucket, Key=key)

    def list(self, prefix):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    def begin(self, key):
        return self.client.create_multipart_upload(Bucket=self.bucket, Key=key)["UploadId"]

    def part(self, key, upload, number, file):
        with open(file, "rb") as body:
            self.client.upload_part(Bucket=self.bucket, Key=key, UploadId=upload, PartNumber=int(number), Body=body)

    def uploads(self, key):
        found = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=key).get("Uploads", [])
        return [upload["UploadId"] for upload in found if upload["Key"] == key]

    def publish(self, key):
        self.client.put_object_acl(Bucket=self.bucket, Key=key, ACL="public-read")

    def parts(self, key, upload):
        from botocore.exceptions import ClientError

        try:
            return len(self.client.list_parts(Bucket=self.bucket, Key=key, UploadId=upload).get("Parts", []))
        except ClientError:
            return None


class Azure:
    def __init__(self, endpoint, bucket):
        from azure.storage.blob import BlobServiceClient

        service = BlobServiceClient(endpoint, credential={"account_name": ACCOUNT, "account_key": KEY})
        self.container = service.get_container_client(bucket)

    def make(self):
        self.container.create_container()

    def put(self, key, file):
        with open(file, "rb") as body:
            self.container.upload_blob(key, body, overwrite=True)

    def get(self, key, file):
        with open(file, "wb") as out:
            self.container.download_blob(key).readinto(out)

    def head(self, key):
        from azure.core.exceptions import ResourceNotFoundError

        try:
            head = self.container.get_blob_client(key).get_blob_properties()
        except ResourceNotFoundError:
            return None
        return {"size": head.size, "metadata": head.metadata, "etag": head.etag}

    def delete(self, key):
        self.container.delete_blob(key)

    def list(self, prefix):
        return sorted(item.name for item in self.container.list_blobs(name_starts_with=prefix))


class Fake:
    def __init__(self, endpoint, bucket):
        self.base = f"{endpoint}/{bucket}"

    def ask(self, method, path, body=None):
        request = urllib.request.Request(
            f"{self.base}{path}", data=body, method=method, headers={"Authorization": "Bearer ey-client"}
        )
        return urllib.request.urlopen(request)

    def make(self):
        self.ask("PUT", "", b"")

    def put(self, key, file):
        with open(file, "rb") as body:
            self.ask("PUT", f"/{urllib.request.quote(key)}", body.read())

    def get(self, key, file):
        with open(file, "wb") as out:
            out.write(self.ask("GET", f"/{urllib.request.quote(key)}").read())

    def head(self, key):
        try:
            answer = self.ask("HEAD", f"/{urllib.request.quote(key)}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        prefix = "x-goog-meta-"
        metadata = {k[len(prefix):]: v for k, v in answer.headers.items() if k.lower().startswith(prefix)}
        return {"size": int(answer.headers["Content-Length"]), "metadata": metadata, "etag": answer.headers["ETag"]}

    def delete(self, key):
        self.ask("DELETE", f"/{urllib.request.quote(key)}")

    def list(self, prefix):
        import re

        found = self.ask("GET", f"?list-type=2&prefix={urllib.request.quote(prefix)}").read().decode()
        return sorted(re.findall("<Key>([^<]*)</Key>", found))

    def begin(self, key):
        import re

        answer = self.ask("POST", f"/{urllib.request.quote(key)}?uploads", b"").read().decode()
        return re.search("<UploadId>([^<]*)</UploadId>", answer)[1]

    def uploads(self, key):
        import re

        answer = self.ask("GET", f"?uploads&prefix={urllib.request.quote(key)}").read().decode()
        return re.findall(f"<Key>{re.escape(key)}</Key><UploadId>([^<]*)</UploadId>", answer)

    def upload(self, key, upload):
        return f"/{urllib.request.quote(key)}?uploadId={urllib.request.quote(upload, safe='')}"

    def part(self, key, upload, number, file):
        with open(file, "rb") as body:
            self.ask("PUT", f"{self.upload(key, upload)}&partNumber={number}", body.read())

    def parts(self, key, upload):
        try:
            return self.ask("GET", self.upload(key, upload)).read().decode().count("<Part>")
        except urllib.error.HTTPError:
            return None


CLIENTS = {}


def answer(scheme, endpoint, bucket, action, *arguments):
    place = (scheme, endpoint, bucket)
    if place not in CLIENTS:
        CLIENTS[place] = {"s3": S3, "az": Azure, "gs": Fake}[scheme](endpoint, bucket)
    if action == "bucket":
        action = "make"
    if action == "list" and not arguments:
        arguments = [""]
    return getattr(CLIENTS[place], action)(*arguments)


for line in sys.stdin:
    try:
        reply = {"ok": answer(*json.loads(line))}
    except Exception as error:
        reply = {"error": f"{line.strip()}: {error!r}"}
    print(json.dumps(reply), flush=True)
