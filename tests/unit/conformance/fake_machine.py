"""A pytest plugin that stands in for `vms` and the installation, in the kit's own processes.

The variable FAULT says what goes wrong; what was called goes into the file CALLS.
"""

PLUGIN = """
import json, os, signal, time
import vms
from conformance import install, look, session

def note(word):
    with open(os.environ["CALLS"], "a") as stream:
        stream.write(word + "\\n")

class Guest:
    identity = {"system": "none"}
    def __init__(self, profile):
        self.profile, self.looks = profile, 0
    def user(self, name):
        return vms.User(name, 1000, 1000, "/home/x")
    def run(self, command, **more):
        if "-" in command:
            self.looks += 1
            changed = os.environ["FAULT"] == "changes" and self.looks > 1
            state = {"sysctls": ["x 2" if changed else "x 1"], "mounts": []}
            return vms.Output(tuple(command), "root", 0, json.dumps(state).encode(), b"", 0.1)
        raise vms.GuestLost("the machine is gone")
    def converse(self, command, **more):
        return self.run(command)
    def shell(self, user):
        return ["sh", "-c", f"read line; echo $line-{user} >> $CALLS"]
    def close(self):
        pass

def up(name, report, cold):
    note("up")
    if os.environ["FAULT"] == "taken":
        raise vms.VmsError("local is up already")
    try:
        boot()
    except BaseException:
        destroy(name)
        raise
    STATES[name] = "up"

def destroy(name):
    note("destroy")
    STATES.pop(name, None)

def boot():
    if os.environ["FAULT"] == "interrupt":
        raise KeyboardInterrupt
    if os.environ["FAULT"] == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    if os.environ["FAULT"] == "hangs":
        time.sleep(60)
    if os.environ["FAULT"] == "slow":
        time.sleep(2)
    if os.environ["FAULT"] == "dies":
        os._exit(9)

def prove(guest):
    guest.proofs = getattr(guest, "proofs", 0) + 1
    if os.environ["FAULT"] == "lost" and guest.proofs > 1:
        raise vms.GuestLost("the machine is gone")
    holds = os.environ["FAULT"] != "unproven"
    return vms.Proof("local", (vms.Evidence("f", "says", ("c",), "root", "e", 0, "", "", 0.1, holds),))

STATES = {}
vms.up, vms.destroy, vms.prove = up, destroy, prove
vms.connect = lambda name: Guest(vms.read(name))
vms.status = lambda name: STATES.get(name, "down")
install.install = lambda *arguments, **options: {"guest_kernel": "6"}

def pytest_collection_modifyitems(items):
    if os.environ["FAULT"] in ("flaky", "passes", "breaks", "stopped"):
        for item in items:
            item.setup, item.tries = (lambda: None), 0
            item.runtest = lambda item=item: play(item)

def play(item):
    item.tries += 1
    note(item.nodeid)
    if os.environ["FAULT"] == "stopped":
        raise KeyboardInterrupt
    if os.environ["FAULT"] == "flaky" and item.tries == 1:
        raise AssertionError("once")
    if os.environ["FAULT"] == "breaks" and item.tries == 2:
        raise OSError("of the kit's own")
    assert os.environ["FAULT"] != "breaks"
"""
