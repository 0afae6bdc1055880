"""The device API inside a control plane of your own that is written in Falcon.

JWT_SECRET=... python mount_into_falcon.py, then
curl -H "Authorization: Bearer $(hypeman-libvirt token --user-id me)" localhost:8080/v1/devices

Only the paths below the prefix are ours: they check tokens and answer errors in hypeman's format.
Your own routes, middleware and error handlers stay as they are.
"""

from contextlib import closing
from wsgiref.simple_server import make_server

import falcon

from hypeman_libvirt import Settings, create_service, init_app
from hypeman_libvirt.bootstrap import create_auth
from hypeman_libvirt.devices.service import DeviceService
from hypeman_libvirt.rest.auth import Auth


class Greeting:
    """A route that was there before."""

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Greet."""
        resp.text = "the control plane"


def create_control_plane(
    service: DeviceService, auth: Auth
) -> "falcon.App[falcon.Request, falcon.Response]":
    """Build your app, then mount ours into it."""
    app = falcon.App()
    app.add_route("/", Greeting())
    init_app(app, service, "/v1", auth=auth)
    return app


if __name__ == "__main__":
    settings = Settings()
    auth = create_auth(settings)
    with (
        closing(create_service(settings)) as service,
        make_server("127.0.0.1", 8080, create_control_plane(service, auth)) as server,
    ):
        server.serve_forever()
