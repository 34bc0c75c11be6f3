"""Judges a replacement from outside: boto3 against the endpoint, and what the volumes hold.

Gets what is expected as one JSON argument; prints a JSON list of what is not so.
"""
import json
import sys
import urllib.request

import boto3
from botocore.config import Config

want = json.loads(sys.argv[1])
findings = []


def ok(condition, finding):
    if not condition:
        findings.append(finding)


ec2 = boto3.client("ec2", endpoint_url=want["endpoint"], region_name=want["region"], aws_access_key_id="any",
                   aws_secret_access_key="any", config=Config(retries={"total_max_attempts": 5, "mode": "standard"}))
mine = [{"Name": "tag:perennial:owner", "Values": [want["owner"]]},
        {"Name": "tag:perennial:node", "Values": [want["node"]]}]


def every(call, key, **arguments):
    return [one for page in ec2.get_paginator(call).paginate(**arguments) for one in page[key]]


def content(volume):
    with urllib.request.urlopen(f"{want['endpoint']}/_region/volumes/{volume}") as answer:
        return json.load(answer)["content"]


# One live instance, and it is the one the node names.
instances = [one for reservation in every("describe_instances", "Reservations", Filters=mine)
             for one in reservation["Instances"]]
live = [one for one in instances if one["State"]["Name"] not in ("terminated", "shutting-down")]
ids = [one["InstanceId"] for one in live]
ok(ids == [want["instance"]], f"live instances are {ids}, the node is on {want['instance']}")
ok(want["instance"] != want["not_instance"], "it is on the instance that was taken")
if len(live) != 1:
    print(json.dumps(findings))
    raise SystemExit
node = live[0]
ok(node["State"]["Name"] == "running", f"it is {node['State']['Name']}")
at = {one["DeviceName"]: one["Ebs"] for one in node["BlockDeviceMappings"]}

# The volumes, by the volumes' own word.
data = at.get(want["data_device"], {}).get("VolumeId")
ok(data == want["data_volume"], f"the data volume is {data}, and was {want['data_volume']}")
root = at.get(want["root_device"], {}).get("VolumeId")
for what, volume in (("data", want["data_volume"]), ("root", root)):
    if volume is None:
        findings.append(f"it has no {what} volume")
        continue
    held = ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Attachments"]
    where = [(one["InstanceId"], one["State"]) for one in held]
    ok(where == [(want["instance"], "attached")], f"the {what} volume is attached to {where}")
ok(at.get(want["data_device"], {}).get("DeleteOnTermination") is False, "the data volume would die with the instance")
held = content(want["data_volume"])
ok([one for one in held if one in want["data_records"]] == want["data_records"],
   f"the data volume holds {held}, written was {want['data_records']}")
if want["root_records"] is not None:
    ok(root == want["root_volume"], f"the root is {root}, the node says {want['root_volume']}")
    ok(want["root_same_as"] in (None, root), f"the root is {root}, and was {want['root_same_as']}")
    ok(at.get(want["root_device"], {}).get("DeleteOnTermination") is False, "the root would die with the instance")
    held = content(root)
    ok([one for one in held if one in want["root_records"]] == want["root_records"],
       f"the root holds {held}, written was {want['root_records']}")

# The address, by the interface's own word.
interfaces = ec2.describe_network_interfaces(
    Filters=[{"Name": "attachment.instance-id", "Values": [want["instance"]]}])["NetworkInterfaces"]
ok(len(interfaces) == want["interfaces"], f"it has {len(interfaces)} interfaces")
interfaces.sort(key=lambda one: one["Attachment"]["DeviceIndex"])
interface = interfaces[-1] if interfaces else {"NetworkInterfaceId": None, "PrivateIpAddresses": [], "Attachment": {}}
if want["address"] is not None:
    addresses = [one["PrivateIpAddress"] for one in interface["PrivateIpAddresses"]]
    ok(want["address"] in addresses, f"it has {addresses}, and had {want['address']}")
    everywhere = ec2.describe_network_interfaces(
        Filters=[{"Name": "addresses.private-ip-address", "Values": [want["address"]]}])["NetworkInterfaces"]
    ok(len(everywhere) == 1, f"{want['address']} is on {[one['NetworkInterfaceId'] for one in everywhere]}")
if want["interface"] is not None:
    ok(interface["NetworkInterfaceId"] == want["interface"],
       f"the interface is {interface['NetworkInterfaceId']}, and was {want['interface']}")
    ok(interface["Attachment"].get("DeleteOnTermination") is False, "the interface would die with the instance")

# Nothing else of the node's is left, and no spot request asks for more.
known = set(want["known"]) | {root} | {one["NetworkInterfaceId"] for one in interfaces}
left = {one["VolumeId"] for one in every("describe_volumes", "Volumes", Filters=mine)}
left |= {one["NetworkInterfaceId"] for one in every("describe_network_interfaces", "NetworkInterfaces", Filters=mine)}
left |= {one["SnapshotId"] for one in every("describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=mine)}
left |= {one["ImageId"] for one in every("describe_images", "Images", Owners=["self"], Filters=mine)}
ok(left <= known, f"left over: {sorted(left - known)}")
requests = every("describe_spot_instance_requests", "SpotInstanceRequests", Filters=mine)
requests = [(one["State"], one.get("InstanceId")) for one in requests if one["State"] in ("open", "active")]
ok(all(instance == want["instance"] for _, instance in requests), f"spot requests that go on: {requests}")

print(json.dumps(findings))
