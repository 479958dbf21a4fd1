"""A second listener on a real server: what is on which, and how both end."""

import asyncio
import contextlib
import socket
import ssl

import httpx2
import pytest
import trustme
import uvicorn

from dpace_serve.errors import ConfigError
from dpace_serve.gate import tls
from dpace_serve.gate_config import TlsConfig

from .conftest import ADMIN, API, METRICS  # noqa: TID252 - tests have no package

ON_BOTH = {"/health": None}
ON_MAIN = {"/v1/models": API, "/version": API}
ON_OBSERVATION = {
    "/metrics": METRICS, "/dpace/acceptance": API, "/dpace/": None, "/dpace/verdict": API,
}  # fmt: skip


@pytest.fixture
def ports():
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in "ab"]
        return [listener.getsockname()[1] for listener in listeners]


@contextlib.asynccontextmanager
async def serving(app, port, **options):
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, **options))
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done()
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await task


async def status(port, path, key=None, **options):
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    scheme = "https" if options else "http"
    async with httpx2.AsyncClient(trust_env=False, **options) as client:
        return (await client.get(f"{scheme}://127.0.0.1:{port}{path}", headers=headers)).status_code


async def test_metrics_and_drafters_are_on_their_own_listener_and_nowhere_else(gated, ports):
    main, own = ports
    server = gated(observation={"port": own})
    async with serving(server.app, main):
        for path, key in ON_BOTH.items():
            assert [await status(port, path, key) for port in ports] == [200, 200]
        for path, key in ON_MAIN.items():
            assert [await status(port, path, key) for port in ports] == [200, 404]
        for path, key in ON_OBSERVATION.items():
            assert [await status(port, path, key) for port in ports] == [404, 200]
        assert await status(own, "/metrics") == 401
        assert await status(own, "/invocations", ADMIN) == 404
    for port in ports:
        with pytest.raises(httpx2.ConnectError):
            await status(port, "/health")


async def test_without_one_everything_is_on_the_main_listener(gated, ports):
    server = gated()
    async with serving(server.app, ports[0]):
        for path, key in {**ON_BOTH, **ON_MAIN, **ON_OBSERVATION}.items():
            assert await status(ports[0], path, key) == 200


async def test_a_client_cannot_say_which_listener_it_came_by(gated, ports):
    main, own = ports
    server = gated(observation={"port": own})
    async with serving(server.app, main), httpx2.AsyncClient(trust_env=False) as client:
        for told in (
            {"Host": f"127.0.0.1:{own}"}, {"X-Forwarded-Port": str(own)},
            {"X-Forwarded-Host": f"127.0.0.1:{own}"}, {"Forwarded": f"host=127.0.0.1:{own}"},
            {"dpace.is_observation": "true"}, {"X-Forwarded-Prefix": "/metrics"},
        ):  # fmt: skip
            headers = {"Authorization": f"Bearer {METRICS}", **told}
            response = await client.get(f"http://127.0.0.1:{main}/metrics", headers=headers)
            assert response.status_code == 404


async def test_a_taken_port_keeps_the_server_from_starting(gated, ports):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        server = gated(observation={"port": taken})
        own = uvicorn.Server(uvicorn.Config(server.app, port=ports[0], log_config=None))
        with contextlib.suppress(SystemExit):
            await own.serve()
        assert not own.started


@pytest.fixture
def certificates(tmp_path):
    authority, stranger = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    files = {name: tmp_path / f"{name}.pem" for name in ("certificate", "key", "authority")}
    issued.cert_chain_pems[0].write_to_path(files["certificate"])
    issued.private_key_pem.write_to_path(files["key"])
    authority.cert_pem.write_to_path(files["authority"])
    files["key"].chmod(0o600)
    return authority, stranger, files


def trusting(authority, client=None):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if client is not None:
        client.configure_cert(context)
    return context


async def test_both_listeners_speak_tls(gated, ports, certificates):
    authority, stranger, files = certificates
    main, own = ports
    config = TlsConfig(certificate_file=files["certificate"], key_file=files["key"])
    tls.require_usable(config)
    server = gated(observation={"port": own}, tls=config)
    async with serving(server.app, main, **tls.uvicorn_tls(config)):
        for port in ports:
            assert await status(port, "/health", verify=trusting(authority)) == 200
            with pytest.raises(httpx2.TransportError):
                await status(port, "/health", verify=trusting(stranger))
            with pytest.raises(httpx2.TransportError):
                await status(port, "/health")  # plain HTTP


async def test_a_client_certificate_of_the_given_authority_is_asked_for(gated, ports, certificates):
    authority, stranger, files = certificates
    main, own = ports
    config = TlsConfig(
        certificate_file=files["certificate"],
        key_file=files["key"],
        client_ca_file=files["authority"],
    )
    tls.require_usable(config)
    server = gated(observation={"port": own}, tls=config)
    known = trusting(authority, authority.issue_cert("client.example"))
    unknown = trusting(authority, stranger.issue_cert("client.example"))
    async with serving(server.app, main, **tls.uvicorn_tls(config)):
        for port in ports:
            assert await status(port, "/health", verify=known) == 200
            for context in (unknown, trusting(authority)):
                with pytest.raises(httpx2.TransportError):
                    await status(port, "/health", verify=context)


def refused(**files):
    with pytest.raises(ConfigError) as caught:
        tls.require_usable(TlsConfig(**files))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_encrypt_is_refused_before_a_model_is_loaded(certificates, tmp_path):
    _, stranger, files = certificates
    other = tmp_path / "other.pem"
    stranger.issue_cert("x").private_key_pem.write_to_path(other)
    other.chmod(0o600)
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    junk.chmod(0o600)
    good = {"certificate_file": files["certificate"], "key_file": files["key"]}
    assert "must be PEM files that fit" in refused(**good | {"key_file": other})
    assert "must be PEM files that fit" in refused(**good | {"certificate_file": junk})
    assert "must be PEM files that fit" in refused(**good | {"client_ca_file": junk})
    assert "cannot be read" in refused(**good | {"key_file": tmp_path / "absent"})
    assert "must be PEM files that fit" in refused(**good | {"certificate_file": tmp_path / "no"})
    files["key"].chmod(0o644)
    assert refused(**good).endswith(f"the mode is 0644. Run chmod 600 {files['key']}.")


def test_a_key_with_a_pass_phrase_does_not_wait_for_one(certificates, tmp_path):
    from cryptography.hazmat.primitives import serialization

    _, _, files = certificates
    key = serialization.load_pem_private_key(files["key"].read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    locked.chmod(0o600)
    assert "must not be encrypted" in refused(
        certificate_file=files["certificate"], key_file=locked
    )
