"""A small Azure Resource Manager on loopback, for the real `az`: what it creates is kept and can be looked at.

It answers long operations with 201 and 202 and is polled, as the real one is, and refuses what the real one refuses
wherever the rule is known: names, quota, sizes, images, keys, priorities, addresses, custom data.
Sources: the REST reference at learn.microsoft.com/rest/api and what azure-cli 2.91 sends.
"""

from __future__ import annotations

import base64
import binascii
import copy
import ipaddress
import json
import re
import ssl
import threading
import traceback
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import trustme

if TYPE_CHECKING:
    from pathlib import Path

TENANT = "11111111-1111-1111-1111-111111111111"
SUBSCRIPTION = "22222222-2222-2222-2222-222222222222"
ROLE = "40c5ff49-9181-41f8-ae61-143b0e78555e"
CUSTOM_DATA_LIMIT = 65535  # bytes after base64, as Azure counts
RESERVED_USERS = {"root", "admin", "administrator", "user", "guest", "test", "test1", "adm", "console", "sys"}

DSVM = "microsoft-dsvm:ubuntu-2204:2204-gen2"
HPC = "microsoft-dsvm:ubuntu-hpc:2404"
UBUNTU = "Canonical:ubuntu-24_04-lts:server"


class RefusedError(Exception):
    """What the API answers instead: an HTTP status, a code and a message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def sku(name: str, family: str, cpus: int, **able: str) -> dict[str, Any]:
    """A size as /skus lists it."""
    capabilities = {"vCPUs": str(cpus), "HyperVGenerations": "V1,V2", "LowPriorityCapable": "True", **able}
    listed = [{"name": key, "value": value} for key, value in {"CpuArchitectureType": "x64", **capabilities}.items()]
    return {"name": name, "resourceType": "virtualMachines", "tier": "Standard", "size": name.partition("_")[2],
            "family": family, "locations": ["eastus"], "locationInfo": [{"location": "eastus", "zones": []}],
            "capabilities": listed, "restrictions": []}  # fmt: skip


class Azure:
    """The state behind the API, for a test to arrange and to look at."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, Any]] = {}
        self.resources: dict[str, dict[str, Any]] = {}
        self.custom_data: dict[str, str] = {}
        self.operations: dict[str, int] = {}
        self.requests: list[str] = []
        self.faults: list[str] = []
        self.images = {DSVM: "V2", HPC: "V2", UBUNTU: "V2"}
        self.taken_names: set[str] = set()
        self.capacity = True
        self.may_assign_roles = True
        self.polls = 1  # how often a long operation answers "not yet"
        self.login_expired = False
        self.skus = [
            sku("Standard_D4s_v5", "standardDSv5Family", 4),
            sku("Standard_NC4as_T4_v3", "standardNCASv3_T4Family", 4),
            sku("Standard_D4ps_v5", "standardDPSv5Family", 4, CpuArchitectureType="Arm64"),
        ]
        self.quota = {"cores": 20, "standardDSv5Family": 10, "standardNCASv3_T4Family": 8, "lowPriorityCores": 8}

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """Every resource of a type such as Microsoft.Compute/virtualMachines."""
        return [each for each in self.resources.values() if each["type"].lower() == kind.lower()]

    def one(self, kind: str) -> dict[str, Any]:
        """The only resource of a type."""
        found = self.of_type(kind)
        assert len(found) == 1, f"expected one {kind}, got {[each['id'] for each in found]}"
        return found[0]

    def used(self) -> int:
        """The CPUs of all VMs that are allocated."""
        sizes = {each["name"]: int(each["capabilities"][1]["value"]) for each in self.skus}
        vms = self.of_type("Microsoft.Compute/virtualMachines")
        return sum(sizes[vm["properties"]["hardwareProfile"]["vmSize"]] for vm in vms if vm["power"] == "running")

    # Creating and deleting: what a PUT, a template or a DELETE does to the state.

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create or replace one resource, following the rules of its type."""
        kind, name = split_id(path)
        rule = RULES.get(kind.lower())
        known = self.resources.get(path.lower(), {})
        made = {**copy.deepcopy(body), "id": path, "name": name, "type": kind}
        made.setdefault("properties", {})["provisioningState"] = "Succeeded"
        made.update({key: value for key, value in known.items() if key in {"power", "principal"}})
        if rule:
            rule(self, made)
        self.resources[path.lower()] = made
        return made

    def delete_group(self, name: str) -> None:
        """Delete a group and everything in it."""
        self.groups.pop(name.lower())
        prefix = f"/subscriptions/{SUBSCRIPTION}/resourcegroups/{name}/".lower()
        for key in [key for key in self.resources if key.startswith(prefix)]:
            del self.resources[key]

    def deploy(self, group: str, template: dict[str, Any], parameters: dict[str, Any]) -> None:
        """Create a template's resources in the order of their dependencies; those before a refused one stay."""
        scope = Scope(group, template, parameters)
        pending = [scope.value(each) for each in template["resources"]]
        made: set[str] = set()
        while pending:
            ready = next(each for each in pending if all(in_made(one, made) for one in each.get("dependsOn", [])))
            pending.remove(ready)
            path = resource_path(group, ready["type"], ready["name"])
            body = {
                key: value for key, value in ready.items() if key not in {"dependsOn", "apiVersion", "type", "name"}
            }
            self.put(path, body)
            made.add(path.lower())


def in_made(dependency: str, made: set[str]) -> bool:
    """Whether a dependency, `type/name` or an id, is among the ids made so far."""
    return any(each.endswith("/" + dependency.lower().lstrip("/")) or each == dependency.lower() for each in made)


def resource_path(group: str, kind: str, name: str) -> str:
    """The id of a resource in a group, for a type and a name that may both have children."""
    provider, *kinds = kind.split("/")
    pairs = "/".join(f"{one}/{two}" for one, two in zip(kinds, name.split("/"), strict=True))
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/{provider}/{pairs}"


def split_id(path: str) -> tuple[str, str]:
    """The type and the name of the resource with an id."""
    provider, *pairs = path.rpartition("/providers/")[2].split("/")
    return "/".join([provider, *pairs[::2]]), pairs[-1]


class Scope:
    """The few template expressions that az sends."""

    def __init__(self, group: str, template: dict[str, Any], parameters: dict[str, Any]) -> None:
        self.group = group
        self.parameters = {key: each.get("value") for key, each in parameters.items()}
        self.variables = self.value(template.get("variables", {}))

    def value(self, thing: Any) -> Any:
        """Resolve every expression in a value."""
        if isinstance(thing, dict):
            return {key: self.value(each) for key, each in thing.items()}
        if isinstance(thing, list):
            return [self.value(each) for each in thing]
        if isinstance(thing, str) and thing.startswith("[") and thing.endswith("]") and not thing.startswith("[["):
            return self._call(thing[1:-1])
        return thing

    def _call(self, expression: str) -> Any:
        if found := re.fullmatch(r"parameters\('(\w+)'\)", expression):
            return self.parameters[found[1]]
        if found := re.fullmatch(r"variables\('(\w+)'\)", expression):
            return self.variables[found[1]]
        if found := re.fullmatch(r"resourceId\('([^']+)',\s*'([^']+)'\)", expression):
            return resource_path(self.group, found[1], found[2])
        if found := re.fullmatch(r"concat\((.+)\)", expression):
            return "".join(str(self._call(part)) for part in re.split(r",\s*(?![^()]*\))", found[1]))
        if found := re.fullmatch(r"'([^']*)'", expression):
            return found[1]
        raise RefusedError(400, "InvalidTemplate", f"this stand-in does not know the expression {expression!r}")


# The rules of each type.


def check_vm(azure: Azure, vm: dict[str, Any]) -> None:
    """Refuse what Compute refuses; make the system disk that comes with a VM."""
    properties = vm["properties"]
    size = properties["hardwareProfile"]["vmSize"]
    known = {each["name"].lower(): each for each in azure.skus}
    if size.lower() not in known:
        raise RefusedError(400, "InvalidParameter", f"The value {size} provided for the VM size is not valid.")
    cpus = int(known[size.lower()]["capabilities"][1]["value"])
    if vm.get("power") != "running":
        if not azure.capacity:
            raise RefusedError(
                409, "SkuNotAvailable", f"The requested size {size} is currently not available in eastus."
            )
        limit = azure.quota["lowPriorityCores" if properties.get("priority") == "Spot" else "cores"]
        if azure.used() + cpus > limit:
            message = f"Operation results in exceeding approved Total Cores quota. Limit: {limit}"
            raise RefusedError(409, "OperationNotAllowed", message)
    check_os(azure, vm)
    check_image(azure, properties)
    if properties.get("priority") == "Spot" and properties.get("evictionPolicy") not in {"Deallocate", "Delete"}:
        raise RefusedError(400, "InvalidParameter", "evictionPolicy is missing")
    for nic in properties["networkProfile"]["networkInterfaces"]:
        if nic["id"].lower() not in azure.resources:
            raise RefusedError(404, "NotFound", f"Network interface {nic['id']} was not found.")
    vm["power"] = "running"
    if (vm.get("identity") or {}).get("type") == "SystemAssigned":
        vm["identity"] = {
            **vm["identity"],
            "principalId": str(uuid.uuid5(uuid.NAMESPACE_URL, vm["id"])),
            "tenantId": TENANT,
        }
    add_os_disk(azure, vm)


def check_os(azure: Azure, vm: dict[str, Any]) -> None:
    """The account, its key, the computer's name and the custom data."""
    profile = vm["properties"]["osProfile"]
    if profile["adminUsername"].lower() in RESERVED_USERS:
        raise RefusedError(400, "InvalidParameter", "The Admin Username specified is not allowed.")
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", profile["computerName"]):
        raise RefusedError(400, "InvalidParameter", "The computer name is not valid.")
    linux = profile["linuxConfiguration"]
    if not linux["disablePasswordAuthentication"]:
        raise RefusedError(400, "InvalidParameter", "a password was allowed")
    for key in linux["ssh"]["publicKeys"]:
        if not re.match(r"ssh-(rsa|ed25519) [A-Za-z0-9+/=]+", key["keyData"]):
            raise RefusedError(
                400, "InvalidParameter", "The value of parameter linuxConfiguration.ssh.publicKeys.keyData is invalid."
            )
        if key["path"] != f"/home/{profile['adminUsername']}/.ssh/authorized_keys":
            raise RefusedError(400, "InvalidParameter", "Destination path for SSH public keys is currently limited")
    data = profile.pop("customData", None)  # never returned again
    if data:
        try:
            azure.custom_data[vm["id"].lower()] = base64.b64decode(data, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise RefusedError(400, "InvalidParameter", "Custom data in OSProfile must be in Base64 encoding") from None
        if len(data) > CUSTOM_DATA_LIMIT * 4 / 3:
            raise RefusedError(
                400,
                "InvalidParameter",
                "Custom data in OSProfile must be in Base64 encoding and with a maximum length of 87380 characters.",
            )


def check_image(azure: Azure, properties: dict[str, Any]) -> None:
    """The image exists, the disk holds it, and the security profile fits."""
    image = properties["storageProfile"]["imageReference"]
    urn = ":".join(image[part] for part in ("publisher", "offer", "sku"))
    if urn not in azure.images:
        raise RefusedError(404, "ImageNotFound", f"The platform image '{urn}:{image['version']}' is not available.")
    if properties["storageProfile"]["osDisk"].get("diskSizeGB", 1000) < 64:
        raise RefusedError(400, "ResizeDiskError", "Disk size is smaller than the image's.")
    security = properties.get("securityProfile") or {}
    if security.get("securityType") == "TrustedLaunch" and "uefiSettings" not in security:
        raise RefusedError(400, "BadRequest", "uefiSettings are missing")


def add_os_disk(azure: Azure, vm: dict[str, Any]) -> None:
    """Every VM has a managed disk, whose name Azure chooses unless it is given."""
    given = vm["properties"]["storageProfile"]["osDisk"]
    # The API takes names in any case; az sends diskSizeGb, and null for a name.
    disk = {"diskSizeGB": 150, **{re.sub("Gb$", "GB", key): each for key, each in given.items()}}
    disk["name"] = disk.get("name") or f"{vm['name']}_OsDisk_1"
    vm["properties"]["storageProfile"]["osDisk"] = disk
    group = vm["id"].split("/")[4]
    path = resource_path(group, "Microsoft.Compute/disks", disk["name"])
    azure.resources[path.lower()] = {
        "id": path, "name": disk["name"], "type": "Microsoft.Compute/disks", "location": vm["location"],
        "properties": {"diskSizeGB": disk["diskSizeGB"]},
    }  # fmt: skip


def check_address(azure: Azure, address: dict[str, Any]) -> None:
    """A DNS label is a label, and nobody else's."""
    settings = address["properties"].get("dnsSettings")
    if (
        address.get("sku", {}).get("name") == "Standard"
        and address["properties"].get("publicIPAllocationMethod", "").lower() != "static"
    ):
        raise RefusedError(400, "StandardSkuPublicIPAddressesMustBeStatic", "Standard sku publicIp must be static.")
    if settings:
        label = settings["domainNameLabel"]
        if not re.fullmatch(r"[a-z][a-z0-9-]{1,61}[a-z0-9]", label):
            raise RefusedError(400, "InvalidDomainNameLabel", f"The domain name label {label} is invalid.")
        if label in azure.taken_names:
            message = f"DNS record {label}.eastus.cloudapp.azure.com is already used by another public IP."
            raise RefusedError(400, "DnsRecordInUse", message)
        settings["fqdn"] = f"{label}.{address['location']}.cloudapp.azure.com"
    address["properties"]["ipAddress"] = "203.0.113.80"


def check_group_rules(azure: Azure, group: dict[str, Any]) -> None:
    """A group is created with its rules as children."""
    rules = group["properties"].pop("securityRules", [])
    for rule in rules:
        azure.put(f"{group['id']}/securityRules/{rule['name']}", {"properties": rule["properties"]})


def check_rule(azure: Azure, rule: dict[str, Any]) -> None:
    """A security rule: its group, a unique priority in range, addresses that are addresses or Azure's tags."""
    properties, parent = rule["properties"], rule["id"].rpartition("/securityRules/")[0].lower()
    if parent not in azure.resources:
        raise RefusedError(404, "ParentResourceNotFound", f"Cannot perform requested operation: {parent} not found.")
    if not 100 <= properties["priority"] <= 4096:
        raise RefusedError(400, "SecurityRuleInvalidPriority", "Security rule has invalid priority.")
    others = [
        each
        for key, each in azure.resources.items()
        if key.startswith(parent + "/securityrules/") and key != rule["id"].lower()
    ]
    if any(each["properties"]["priority"] == properties["priority"] for each in others):
        raise RefusedError(
            400, "SecurityRuleConflict", "Security rules with the same priority and direction are not allowed."
        )
    sources = properties.get("sourceAddressPrefixes") or [properties.get("sourceAddressPrefix")]
    for source in sources:
        if source not in {"*", "Internet", "VirtualNetwork", "AzureLoadBalancer"}:
            try:
                ipaddress.ip_network(source)
            except ValueError:
                raise RefusedError(
                    400, "SecurityRuleInvalidAddressPrefix", f"Invalid address prefix {source}."
                ) from None


def check_role(azure: Azure, assignment: dict[str, Any]) -> None:
    """A role is assigned by whoever may, to a principal that exists."""
    if not azure.may_assign_roles:
        message = "The client 'app' does not have authorization to perform action 'roleAssignments/write'"
        raise RefusedError(403, "AuthorizationFailed", message)
    properties = assignment["properties"]
    known = [(vm.get("identity") or {}).get("principalId") for vm in azure.of_type("Microsoft.Compute/virtualMachines")]
    if properties["principalId"] not in known:
        raise RefusedError(
            400, "PrincipalNotFound", f"Principal {properties['principalId']} does not exist in the directory."
        )
    assignment["properties"]["scope"] = assignment["id"].rpartition("/providers/Microsoft.Authorization")[0]


def check_schedule(azure: Azure, schedule: dict[str, Any]) -> None:
    """A daily shutdown: named after its VM, which exists, at a time of day."""
    properties = schedule["properties"]
    if properties["targetResourceId"].lower() not in azure.resources:
        raise RefusedError(400, "InvalidTarget", "The target VM does not exist.")
    if not re.fullmatch(r"([01]\d|2[0-3])[0-5]\d", properties["dailyRecurrence"]["time"]):
        raise RefusedError(400, "InvalidTime", "The time is not HHmm.")


RULES = {
    "microsoft.compute/virtualmachines": check_vm,
    "microsoft.network/publicipaddresses": check_address,
    "microsoft.network/networksecuritygroups": check_group_rules,
    "microsoft.network/networksecuritygroups/securityrules": check_rule,
    "microsoft.authorization/roleassignments": check_role,
    "microsoft.devtestlab/schedules": check_schedule,
}


class Handler(BaseHTTPRequestHandler):
    """The API's routes, first match wins."""

    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing; the requests are kept for the test."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path).rstrip("/")
        query = {key.lower(): each[0] for key, each in parse_qs(url.query).items()}
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        azure = self.server.azure
        azure.requests.append(f"{self.command} {path}")
        try:
            with self.server.lock:
                self._send(*route(self, path, query, raw))
        except RefusedError as error:
            self._send(error.status, {"error": {"code": error.code, "message": error.message}})
        except Exception:
            azure.faults.append(f"{self.command} {self.path}\n{raw[:3000]!r}\n{traceback.format_exc()}")
            self._send(400, {"error": {"code": "StandInFault", "message": traceback.format_exc(limit=1)}})

    def _send(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _answer  # noqa: N815 - the base class's names

    def operation(self) -> dict[str, str]:
        """Begin a long operation: the headers that say where to ask for it."""
        name = uuid.uuid4().hex
        self.server.azure.operations[name] = self.server.azure.polls
        place = f"{self.server.url}/subscriptions/{SUBSCRIPTION}/providers/Stand.In/locations/eastus"
        url = f"{place}/operations/{name}?api-version=1"
        return {"Azure-AsyncOperation": url, "Location": url + "&result=1", "Retry-After": "1"}


Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]
GROUP = rf"/subscriptions/{SUBSCRIPTION}/resourcegroups/([^/]+)"


def route(handler: Handler, path: str, query: dict[str, str], raw: bytes) -> Answer:
    """Answer one request."""
    azure, low, method = handler.server.azure, path.lower(), handler.command
    if answer := login_route(handler, low):
        return answer
    if azure.login_expired or not handler.headers.get("Authorization", "").startswith("Bearer "):
        raise RefusedError(401, "ExpiredAuthenticationToken", "The access token expiry UTC time is earlier than now.")
    if "api-version" not in query:
        raise RefusedError(
            400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required."
        )
    body = json.loads(raw) if raw else {}
    if answer := catalogue_route(azure, low, query):
        return answer
    if found := re.fullmatch(r".*/providers/stand\.in/.*/operations/(\w+)", low):
        return poll(handler, found[1], result="result" in query)
    if answer := group_route(handler, path, query, body):
        return answer
    return resource_route(handler, path, method, body)


def login_route(handler: Handler, low: str) -> Answer | None:
    """The login host: discovery and tokens."""
    url, azure = handler.server.url, handler.server.azure
    if low.endswith("/.well-known/openid-configuration"):
        base = f"{url}/{TENANT}"
        return 200, {
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "issuer": f"{base}/v2.0",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "device_authorization_endpoint": f"{base}/devicecode",
        }
    if low.endswith("/oauth2/v2.0/token"):
        if azure.login_expired:
            return 400, {"error": "invalid_grant", "error_description": "AADSTS700082: The refresh token has expired."}
        # Short-lived, so that az asks again for every command and a login can expire.
        return 200, {"token_type": "Bearer", "expires_in": 300, "access_token": "stand-in"}
    return None


def catalogue_route(azure: Azure, low: str, query: dict[str, str]) -> Answer | None:  # noqa: PLR0911 - a table of routes
    """What can be had: subscriptions, sizes, quotas, images, names, roles."""
    mine = {"id": f"/subscriptions/{SUBSCRIPTION}", "subscriptionId": SUBSCRIPTION, "displayName": "Stand-in",
            "tenantId": TENANT, "state": "Enabled"}  # fmt: skip
    if low == "/subscriptions":
        return 200, {"value": [mine]}
    if low == f"/subscriptions/{SUBSCRIPTION}":
        return 200, mine
    if low == "/tenants":
        return 200, {"value": [{"id": f"/tenants/{TENANT}", "tenantId": TENANT}]}
    if low.endswith("/providers/microsoft.compute/skus"):
        return 200, {"value": azure.skus}
    if low.endswith("/usages"):
        used = azure.used()
        return 200, {"value": [
            {"name": {"value": key, "localizedValue": f"Total {key}"}, "currentValue": used, "limit": limit}
            for key, limit in azure.quota.items()
        ]}  # fmt: skip
    if low.endswith("/checkdnsnameavailability"):
        return 200, {"available": query["domainnamelabel"] not in azure.taken_names}
    if "/roledefinitions" in low:
        name = "Desktop Virtualization Power On Off Contributor"
        path = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Authorization/roleDefinitions/{ROLE}"
        return 200, {"value": [{"id": path, "name": ROLE, "properties": {"roleName": name}}]}
    return image_route(azure, low)


def image_route(azure: Azure, low: str) -> Answer | None:
    """Marketplace images: bare arrays of versions, and one version."""
    found = re.search(
        r"/publishers/([^/]+)/artifacttypes/vmimage/offers/([^/]+)/skus/([^/]+)/versions(?:/([^/]+))?$", low
    )
    if not found:
        return None
    urn = next((each for each in azure.images if each.lower() == ":".join(found.groups()[:3])), None)
    path = f"/Subscriptions/{SUBSCRIPTION}/Providers/Microsoft.Compute/Locations/eastus{low.partition('locations/')[2]}"
    if not urn:
        if found[4]:
            raise RefusedError(404, "PlatformImageNotFound", "The platform image is not available.")
        return 200, []
    if not found[4]:
        return 200, [{"location": "eastus", "name": "25.06.18", "id": f"{path}/25.06.18"}]
    generation = azure.images[urn]
    return 200, {
        "location": "eastus",
        "name": "25.06.18",
        "id": path,
        "properties": {
            "hyperVGeneration": generation,
            "architecture": "x64",
            "osDiskImage": {"operatingSystem": "Linux", "sizeInGb": 127},
            "features": [{"name": "SecurityType", "value": "TrustedLaunchSupported"}],
            "dataDiskImages": [],
            "imageDeprecationStatus": {"imageState": "Active"},
        },
    }


def poll(handler: Handler, name: str, *, result: bool) -> Answer:
    """A long operation: not yet, then done."""
    azure = handler.server.azure
    azure.operations[name] -= 1
    if azure.operations[name] >= 0:
        headers = {"Retry-After": "1"}
        where = f"{handler.server.url}{handler.path}"
        return (202, None, {**headers, "Location": where}) if result else (200, {"status": "InProgress"}, headers)
    return (200, {}) if result else (200, {"status": "Succeeded"})


def group_route(handler: Handler, path: str, query: dict[str, str], body: dict[str, Any]) -> Answer | None:
    """Resource groups, what is in them, and template deployments."""
    azure, method = handler.server.azure, handler.command
    if path.lower() == f"/subscriptions/{SUBSCRIPTION}/resourcegroups":
        tag = re.search(r"tagname eq '([^']+)'", query.get("$filter", ""), re.IGNORECASE)
        return 200, {"value": [each for each in azure.groups.values() if not tag or tag[1] in each["tags"]]}
    if found := re.fullmatch(GROUP, path, re.IGNORECASE):
        return one_group(handler, found[1], method, body)
    if path.lower() == f"/subscriptions/{SUBSCRIPTION}/resources":
        group = query["$filter"].partition("'")[2].partition("'")[0]
        inside = [each for key, each in azure.resources.items() if key.split("/")[4] == group.lower()]
        return 200, {"value": [each for each in inside if each["type"].count("/") == 1]}
    if found := re.fullmatch(
        GROUP + r"/providers/microsoft\.resources/deployments/([^/]+)(/validate)?", path, re.IGNORECASE
    ):
        return deployment(handler, found[1], path, body)
    return None


def one_group(handler: Handler, name: str, method: str, body: dict[str, Any]) -> Answer:
    """One resource group."""
    azure = handler.server.azure
    if method == "PUT":
        path = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{name}"
        azure.groups[name.lower()] = {
            "id": path, "name": name, "location": body["location"], "type": "Microsoft.Resources/resourceGroups",
            "tags": body.get("tags") or {}, "properties": {"provisioningState": "Succeeded"},
        }  # fmt: skip
        return 201, azure.groups[name.lower()]
    if name.lower() not in azure.groups:
        raise RefusedError(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")
    if method == "DELETE":
        azure.delete_group(name)
        return 202, None, handler.operation()
    return (204, None) if method == "HEAD" else (200, azure.groups[name.lower()])


def deployment(handler: Handler, group: str, path: str, body: dict[str, Any]) -> Answer:
    """A template: validated, or deployed and polled."""
    azure = handler.server.azure
    known = {"id": path, "name": path.rpartition("/")[2], "type": "Microsoft.Resources/deployments"}
    done = {**known, "properties": {"provisioningState": "Succeeded", "outputs": {}, "dependencies": []}}
    if handler.command == "GET" or path.lower().endswith("/validate"):
        return 200, done
    if group.lower() not in azure.groups:
        raise RefusedError(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")
    properties = body["properties"]
    azure.deploy(group, properties["template"], properties.get("parameters") or {})
    headers = handler.operation()
    return (
        201,
        {**known, "properties": {"provisioningState": "Accepted"}},
        {"Azure-AsyncOperation": headers["Azure-AsyncOperation"]},
    )


def resource_route(handler: Handler, path: str, method: str, body: dict[str, Any]) -> Answer:
    """Everything else is a resource: put, get, delete, listed below its parent, or acted upon."""
    azure = handler.server.azure
    if method == "PUT":
        return 201, shown(azure.put(path, body))
    if method == "POST":
        return act(handler, path)
    found = azure.resources.get(path.lower())
    if method == "DELETE":
        azure.resources.pop(path.lower(), None)
        return (202, None, handler.operation()) if found else (204, None)
    if found:
        return 200, shown(found, azure)
    kind, name = split_id(path)
    if (
        kind.count("/") != len(path.rpartition("/providers/")[2].split("/")) // 2
        or name.lower() == kind.rpartition("/")[2].lower()
    ):
        return 200, {
            "value": [shown(each) for key, each in azure.resources.items() if key.rpartition("/")[0] == path.lower()]
        }
    if path.lower().endswith("/instanceview"):
        return 200, shown(azure.resources[path.lower().removesuffix("/instanceview")], azure)["properties"][
            "instanceView"
        ]
    raise RefusedError(404, "ResourceNotFound", f"The Resource '{kind}/{name}' under resource group was not found.")


def act(handler: Handler, path: str) -> Answer:
    """Start or deallocate a VM."""
    azure = handler.server.azure
    target, _, verb = path.lower().rpartition("/")
    if target not in azure.resources:
        raise RefusedError(404, "ResourceNotFound", f"The Resource {target} was not found.")
    vm = azure.resources[target]
    if verb == "start" and not azure.capacity:
        raise RefusedError(
            409, "AllocationFailed", "Allocation failed. We do not have sufficient capacity for the requested VM size."
        )
    vm["power"] = {"deallocate": "deallocated", "start": "running", "poweroff": "stopped"}[verb]
    return 202, None, handler.operation()


def shown(resource: dict[str, Any], azure: Azure | None = None) -> dict[str, Any]:
    """A resource as the API returns it; a VM with its power, a network interface with its VM."""
    answer = copy.deepcopy(resource)
    if answer["type"].lower() == "microsoft.compute/virtualmachines":
        state = answer.pop("power")
        answer["properties"]["vmId"] = str(uuid.uuid5(uuid.NAMESPACE_OID, answer["id"]))
        answer["properties"]["instanceView"] = {"statuses": [
            {"code": "ProvisioningState/succeeded", "level": "Info", "time": "2026-01-02T03:04:05+00:00"},
            {"code": f"PowerState/{state}", "level": "Info", "displayStatus": f"VM {state}"},
        ]}  # fmt: skip
    if azure and answer["type"].lower() == "microsoft.network/networksecuritygroups":
        prefix = answer["id"].lower() + "/securityrules/"
        answer["properties"]["securityRules"] = [
            each for key, each in azure.resources.items() if key.startswith(prefix)
        ]
    return answer


class Server(ThreadingHTTPServer):
    """The API over TLS on a free loopback port; its CA's certificate is written for the client."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.azure = Azure()
        self.lock = threading.Lock()
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        self.ca = folder / "arm-ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://localhost:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: Any) -> None:
        """A client that went away (Ctrl-C) is no error of the server's."""
