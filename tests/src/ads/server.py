"""A management server for tests: ADS, state of the world and delta, with faults on purpose.

It shares no code with Weighlock: resources are Envoy's proto3 JSON, read by grpcio's generated classes, and versions are numbers that count
up. Resources belong to groups; a node gets the group of its id, or else that of its cluster. `server.py XDS ADMIN` listens
on these ports of the loopback, and is told what to do over HTTP on the second:

    PUT   /groups/GROUP   {"resources": [...]}                        replaces a group
    PATCH /groups/GROUP   {"set": [...], "delete": [[TYPE, NAME]]}    changes some of it; both answer {"revision": N}
    POST  /faults/GROUP   {"fault": ...}                              see `Group.fault`
    POST  /serve/-                                                    starts to listen for xDS
    GET   /nodes/ID       whether a node has all that it asked for, and what it refused last
    GET   /log/ID         every acknowledgement and refusal of a node, in order
"""

import collections
import functools
import importlib
import json
import os
import queue
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2, json_format

PREFIX = "type.googleapis.com/"
CLUSTER = PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = PREFIX + "envoy.config.listener.v3.Listener"
SCOPES = PREFIX + "envoy.config.route.v3.ScopedRouteConfiguration"
# Make before break: what is named comes before what names it.
ORDER = [CLUSTER, ENDPOINTS, LISTENER]
# Types of which a client that names nothing wants all.
WILDCARD = (CLUSTER, LISTENER, SCOPES)

# A server that comes back forgot its versions, and must not give one of them to something else.
STARTED = time.time_ns()

lock = threading.RLock()
groups = {}
nodes = {}
# The streams of nodes in the order in which they were opened.
streams = []


def import_types(resource):
    """Makes the messages known that `resource` names, so that it can be read."""
    if isinstance(resource, list):
        for item in resource:
            import_types(item)
    elif isinstance(resource, dict):
        name = resource.get("@type", "").rsplit("/", 1)[-1]
        if name.startswith(("envoy.", "xds.")):
            import_package(name.rsplit(".", 1)[0])
        for item in resource.values():
            import_types(item)


@functools.cache
def import_package(package):
    for path in importlib.import_module(package).__path__:
        for file in os.listdir(path):
            if file.endswith("_pb2.py"):
                importlib.import_module(f"{package}.{file[:-3]}")


class Group:
    """The resources of a group: by type and name, each with the revision that brought it."""

    def __init__(self):
        self.revision = 0
        self.types = collections.defaultdict(dict)
        # Types that are not sent for now, types that are sent twice, and (type, name) that are left out.
        self.held, self.doubled, self.missing = set(), set(), set()
        self.reuses_nonces = False

    def change(self, resources, delete=None):
        """Sets resources and deletes those in `delete`; without it, all others."""
        self.revision += 1
        read = []
        for resource in resources:
            import_types(resource)
            packed = json_format.ParseDict(resource, any_pb2.Any())
            name = resource.get("cluster_name") if packed.type_url == ENDPOINTS else resource.get("name")
            read.append((packed.type_url, name, packed))
        named = {(kind, name) for kind, name, _ in read}
        if delete is None:
            delete = [(kind, name) for kind, of in self.types.items() for name in of if (kind, name) not in named]
        for kind, name in delete:
            self.types[kind].pop(name, None)
        for kind, name, packed in read:
            known = self.types[kind].get(name)
            if known is None or known[1] != packed:
                self.types[kind][name] = (f"{STARTED}-{self.revision}", packed)
        return self.revision

    def fault(self, fault):
        """One of: {"drop": true}, {"hold": TYPE}, {"release": TYPE}, {"double": TYPE}, {"missing": [TYPE, NAME]}, {"nonces": true}, {"none": true}."""
        if "hold" in fault:
            self.held.add(fault["hold"])
        if "release" in fault:
            self.held.discard(fault["release"])
        if "double" in fault:
            self.doubled.add(fault["double"])
        if "missing" in fault:
            self.missing.add(tuple(fault["missing"]))
        if "nonces" in fault:
            self.reuses_nonces = True
        if "none" in fault:
            self.held, self.doubled, self.missing, self.reuses_nonces = set(), set(), set(), False

    def of(self, kind):
        return {name: one for name, one in self.types[kind].items() if (kind, name) not in self.missing}


class Asked:
    """What a stream asked of one type, and what it was sent and said of it."""

    def __init__(self):
        self.wants_all = False
        self.names = set()
        # What the client has: versions by name.
        self.sent = {}
        self.nonce = None
        self.waits = False
        self.refused = None

    def wanted(self, resources):
        return {name: one for name, one in resources.items() if self.wants_all or name in self.names}


class Stream:
    def __init__(self, is_delta):
        self.is_delta = is_delta
        self.node = None
        self.asked = {}
        self.nonces = 0
        self.events = queue.Queue(10_000)
        self.is_open = True

    def group(self):
        return groups.setdefault(self.node.id if self.node.id in groups else self.node.cluster, Group())

    def kinds(self):
        return sorted(self.asked, key=lambda kind: ORDER.index(kind) if kind in ORDER else len(ORDER))

    def note(self, **what):
        nodes.setdefault(self.node.id, []).append(what)

    def run(self, requests, context):
        """Answers requests and changes, one after the other, until either side ends it."""
        threading.Thread(target=self.read, args=(requests,), daemon=True).start()
        with lock:
            streams.append(self)
        try:
            while self.is_open and context.is_active():
                try:
                    request = self.events.get(timeout=1)
                except queue.Empty:
                    continue
                with lock:
                    if request is not None:
                        self.take(request)
                    answers = [] if self.node is None else list(self.answers())
                yield from answers
        finally:
            with lock:
                streams.remove(self)

    def read(self, requests):
        try:
            for request in requests:
                self.events.put(request)
        except grpc.RpcError:
            pass
        self.is_open = False
        self.events.put(None)

    def take(self, request):
        if request.HasField("node"):
            self.node = request.node
        kind = request.type_url
        asked = self.asked.setdefault(kind, Asked())
        if request.response_nonce:
            if request.response_nonce != asked.nonce:
                self.note(event="stale", type=kind)
                return
            asked.waits = False
            refused = request.error_detail.message if request.HasField("error_detail") else None
            asked.refused = refused
            self.note(event="ack" if refused is None else "nack", type=kind, error=refused)
        take = self.take_delta if self.is_delta else self.take_sotw
        take(request, asked)

    def take_sotw(self, request, asked):
        names = set(request.resource_names)
        asked.wants_all = request.type_url in WILDCARD and (not names and not asked.names or "*" in names)
        # What it stops naming it has forgotten.
        asked.sent = {name: version for name, version in asked.sent.items() if asked.wants_all or name in names}
        asked.names = names

    def take_delta(self, request, asked):
        is_first = asked.nonce is None and not asked.names and not asked.wants_all
        names = set(request.resource_names_subscribe)
        if is_first:
            asked.sent.update(request.initial_resource_versions)
            asked.wants_all = request.type_url in WILDCARD and not names
        asked.wants_all = asked.wants_all or "*" in names
        asked.names |= names
        for name in names:
            # A name that is asked for is answered, even where it was before.
            if not request.initial_resource_versions.get(name):
                asked.sent.pop(name, None)
        for name in request.resource_names_unsubscribe:
            asked.names.discard(name)
            asked.wants_all = asked.wants_all and name != "*"
            if not asked.wants_all:
                asked.sent.pop(name, None)
        missing = [name for name in names if name != "*" and name not in self.group().of(request.type_url)]
        asked.sent.update((name, "absent") for name in missing)

    def answers(self):
        for kind in self.kinds():
            asked, group = self.asked[kind], self.group()
            if asked.waits or kind in group.held:
                continue
            wanted = asked.wanted(group.of(kind))
            versions = {name: version for name, (version, _) in wanted.items()}
            if versions == asked.sent and not (asked.nonce is None and asked.wants_all):
                continue
            if not self.is_delta and not wanted and not asked.wants_all:
                asked.sent = versions
                continue
            answer = (self.delta if self.is_delta else self.sotw)(kind, asked, wanted, group)
            if kind == CLUSTER and ENDPOINTS in self.asked:
                # Envoy warms a changed cluster until its endpoints come again.
                for name in set(versions.items()) - set(asked.sent.items()):
                    self.asked[ENDPOINTS].sent.pop(name[0], None)
            asked.sent, asked.waits, asked.nonce = versions, True, answer.nonce
            yield answer

    def nonce(self, group):
        self.nonces += 1
        return "again" if group.reuses_nonces else f"{id(self)}-{self.nonces}"

    def sotw(self, kind, asked, wanted, group):
        resources = [packed for _, packed in wanted.values()] * (2 if kind in group.doubled else 1)
        return discovery_pb2.DiscoveryResponse(
            version_info=f"{STARTED}-{group.revision}", type_url=kind, resources=resources, nonce=self.nonce(group)
        )

    def delta(self, kind, asked, wanted, group):
        changed = [
            discovery_pb2.Resource(name=name, version=version, resource=packed)
            for name, (version, packed) in wanted.items()
            if asked.sent.get(name) != version
        ]
        return discovery_pb2.DeltaDiscoveryResponse(
            system_version_info=f"{STARTED}-{group.revision}",
            type_url=kind,
            resources=changed * (2 if kind in group.doubled else 1),
            removed_resources=[name for name in asked.sent if name not in wanted],
            nonce=self.nonce(group),
        )

    def state(self):
        """What a test waits for: whether everything that it asked for was sent and acknowledged."""
        group, refused, behind = self.group(), {}, []
        for kind, asked in self.asked.items():
            versions = {name: version for name, (version, _) in asked.wanted(group.of(kind)).items()}
            if asked.refused is not None:
                refused[kind] = asked.refused
            if asked.waits or versions != asked.sent:
                behind.append(kind)
        is_first = not all(kind in self.asked for kind in (CLUSTER, LISTENER))
        state = "pending" if behind or is_first else "NACK" if refused else "synced"
        return {"state": state, "nack": refused, "behind": behind, "revision": f"r{group.revision}"}


class Service(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    def StreamAggregatedResources(self, requests, context):
        return Stream(is_delta=False).run(requests, context)

    def DeltaAggregatedResources(self, requests, context):
        return Stream(is_delta=True).run(requests, context)


def wake():
    for stream in streams:
        stream.events.put(None)


class Admin(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def parts(self):
        _, first, rest = self.path.split("/", 2)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        return first, unquote(rest), json.loads(body or b"null")

    def do_GET(self):
        kind, node, _ = self.parts()
        with lock:
            if kind == "log":
                return self.answer(200, nodes.get(node, []))
            for stream in reversed(streams):
                if stream.node is not None and stream.node.id == node:
                    return self.answer(200, stream.state())
        self.answer(200, {"state": "away"})

    def do_PUT(self):
        _, group, body = self.parts()
        self.change(group, body["resources"], None)

    def do_PATCH(self):
        _, group, body = self.parts()
        self.change(group, body["set"], [tuple(one) for one in body["delete"]])

    def change(self, group, resources, delete):
        try:
            with lock:
                revision = groups.setdefault(group, Group()).change(resources, delete)
                wake()
        except (json_format.ParseError, ImportError) as error:
            return self.answer(422, {"error": str(error)})
        self.answer(200, {"revision": revision})

    def do_POST(self):
        what, group, body = self.parts()
        if what == "serve":
            self.server.xds.start()
            return self.answer(200, {})
        with lock:
            groups.setdefault(group, Group()).fault(body)
            if "drop" in body:
                for stream in streams:
                    if stream.node is not None and group in (stream.node.id, stream.node.cluster):
                        stream.is_open = False
            wake()
        self.answer(200, {})


def main(xds, admin):
    server = grpc.server(futures.ThreadPoolExecutor(64))
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(Service(), server)
    if not server.add_insecure_port(f"127.0.0.1:{xds}"):
        return f"port {xds} is taken"
    http = ThreadingHTTPServer(("127.0.0.1", int(admin)), Admin)
    http.xds = server
    print("ready", flush=True)
    http.serve_forever()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
