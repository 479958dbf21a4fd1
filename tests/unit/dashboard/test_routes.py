"""The routes of the live page: a closed list, strict headers, a guard that opens nothing else."""

import httpx2
import pytest
from fastapi import FastAPI

from dpace_serve.dashboard.files import PLOTLY, read_files
from dpace_serve.dashboard.routes import public_paths
from dpace_serve.web import routes
from dpace_serve.web.key_guard import PREFIX

FILES = read_files()
KEY, ADMIN = "read-key", "admin-key"
PUBLIC = sorted(public_paths(FILES, PREFIX))


def app(root_path=""):
    application = FastAPI(root_path=root_path)
    application.state.dpace = None
    routes.attach(application, [KEY], ADMIN)
    return application


async def ask(path, method="GET", root_path="", **headers):
    transport = httpx2.ASGITransport(app=app(root_path))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, headers=headers)


async def test_the_page_is_html_with_the_policy_that_lets_in_nothing_but_its_own_files():
    response = await ask("/dpace/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        directive.split(" ", 1)
        for directive in response.headers["content-security-policy"].split("; ")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


@pytest.mark.parametrize("path", PUBLIC)
async def test_every_answer_has_the_headers_that_keep_browsers_strict(path):
    response = await ask(path)
    assert response.status_code in (200, 308)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in response.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("app.js", "text/javascript; charset=utf-8"),
        ("tokens.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
        (PLOTLY, "text/javascript; charset=utf-8"),
    ],
)
async def test_a_file_comes_whole_and_as_what_it_is(name, media_type):
    response = await ask(f"/dpace/static/{name}")
    assert response.content == FILES[name].content
    assert response.headers["content-type"] == media_type


async def test_without_the_last_slash_one_is_sent_there_by_a_relative_way():
    response = await ask("/dpace")
    assert response.status_code == 308
    assert response.headers["location"] == "dpace/"


async def test_a_known_file_is_not_sent_again():
    first = await ask(f"/dpace/static/{PLOTLY}")
    assert first.headers["cache-control"] == "no-cache"
    again = await ask(f"/dpace/static/{PLOTLY}", **{"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


@pytest.mark.parametrize("known", ["W/{}", '"other", {}', "*"])
async def test_a_known_file_is_recognised_as_the_standard_says(known):
    tag = FILES["app.js"].etag
    response = await ask("/dpace/static/app.js", **{"If-None-Match": known.format(tag)})
    assert response.status_code == 304


async def test_a_changed_file_is_sent():
    response = await ask("/dpace/static/app.js", **{"If-None-Match": '"of-yesterday"'})
    assert response.status_code == 200


async def test_head_tells_the_length_and_sends_nothing():
    response = await ask(f"/dpace/static/{PLOTLY}", "HEAD")
    assert response.status_code == 200
    assert response.content == b""
    assert int(response.headers["content-length"]) == len(FILES[PLOTLY].content)


@pytest.mark.parametrize(
    "path",
    [
        "/dpace/acceptance",
        "/dpace/drafters",
        "/dpace/verdict",
        "/dpace/history",
        "/dpace/promote",
        "/dpace/index.html",
        "/dpace/static",
        "/dpace/static/",
        "/dpace/static/index.html",
        "/dpace/static/app.js/",
        "/dpace/static/app.js/../../acceptance",
        "/dpace/static/../acceptance",
        "/dpace/static/%2e%2e/acceptance",
        "/dpace/static/..%2facceptance",
        "/dpace/static//app.js",
        "/dpace/static/routes.py",
        "/dpace/static/APP.JS",
        "/dpace//",
    ],
)
async def test_without_a_key_nothing_else_is_open(path):
    assert (await ask(path)).status_code == 401


@pytest.mark.parametrize(
    "path",
    ["/dpace/static/../routes.py", "/dpace/static/%2e%2e/routes.py", "/dpace/static/routes.py"],
)
async def test_with_a_key_only_the_listed_files_exist(path):
    response = await ask(path, authorization=f"Bearer {KEY}")
    assert response.status_code == 404


@pytest.mark.parametrize("path", PUBLIC)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_a_public_path_still_asks_for_the_admin_key_where_something_could_change(
    path, method
):
    assert (await ask(path, method)).status_code == 401
    assert (await ask(path, method, authorization=f"Bearer {ADMIN}")).status_code == 405


@pytest.mark.parametrize("path", PUBLIC)
async def test_options_is_not_public(path):
    assert (await ask(path, "OPTIONS")).status_code == 401


@pytest.mark.parametrize("root_path", ["/behind", "/dpace"])
async def test_behind_a_root_path_the_page_opens_and_the_numbers_do_not(root_path):
    page = await ask(f"{root_path}/dpace/", root_path=root_path)
    assert page.status_code == 200
    numbers = await ask(f"{root_path}/dpace/acceptance", root_path=root_path)
    assert numbers.status_code == 401


async def test_a_forged_host_header_makes_nothing_public():
    response = await ask("/dpace/acceptance", host="test/dpace/static/app.js?x=")
    assert response.status_code == 401
