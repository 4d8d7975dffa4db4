"""Applications as the data plane knows them: those that have a package, to be read only (contract 1.6, 4.6)."""

from __future__ import annotations

from starlette.responses import Response

from batchyard.api.wire import wire
from batchyard.api.wire.call import Call
from batchyard.engine.work import applications
from batchyard.engine.work.applications import Shown
from batchyard.model.application import ApplicationSummary


async def list_(call: Call) -> Response:
    """GET /applications"""
    after, most = call.page()
    found = await call.db.read(applications.page, after, most + 1, usable=True)
    more = found[most - 1][0].pk if len(found) > most else None
    items = [wire.encode(_summary(one)) for one in found[:most]]
    return wire.listing(call.base, "listapplicationsummariesresponses", items, call.next_link(more))


async def get(call: Call) -> Response:
    """GET /applications/{applicationId}"""
    found = await call.db.read(applications.usable, call.ids["application_id"])
    response = wire.element(call.base, "getapplicationsummaryresponse", wire.encode(_summary(found)))
    return wire.tag(response, found[0].modified)


def _summary(found: Shown) -> ApplicationSummary:
    row, packages = found
    return ApplicationSummary(id=row.id, display_name=row.display_name or row.id, versions=[package.name for package in packages])
