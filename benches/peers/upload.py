"""Uploads a file as people do: boto3 with its defaults, parts of 8 MiB and ten threads.

upload.py ENDPOINT FILE
"""

import sys

import boto3
from botocore import UNSIGNED
from botocore.config import Config

endpoint, file = sys.argv[1:]
client = boto3.client(
    "s3", endpoint_url=endpoint, region_name="us-east-1",
    config=Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}),
)
client.upload_file(file, "bench", "theirs")
