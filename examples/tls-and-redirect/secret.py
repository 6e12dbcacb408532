"""Prints a kubernetes.io/tls Secret: secret.py NAME CERTIFICATE KEY."""

import base64
import json
import pathlib
import sys

name, certificate, key = sys.argv[1:]
encode = lambda path: base64.b64encode(pathlib.Path(path).read_bytes()).decode()
json.dump(
    {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": name},
        "data": {"tls.crt": encode(certificate), "tls.key": encode(key)},
    },
    sys.stdout,
)
