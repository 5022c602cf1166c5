"""`reflux status`: does the server live, and does it serve?"""

from api.cli.call import Call, command
from api.cli.output import print_json, say


@command
def status(call: Call) -> None:
    """Ask the server whether it lives and whether it serves. Needs no key."""
    alive = call.server.get("/healthz")
    ready = call.server.get("/readyz")
    if call.as_json:
        print_json({"url": call.server.url, "healthz": alive, "readyz": ready})
    else:
        say(f"{call.server.url} serves; {ready['active_runs']} runs are active; traces: {ready['traces']}")
