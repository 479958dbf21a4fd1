"""/dpace/acceptance on a small application: what it answers, and to whom."""

from types import SimpleNamespace

import httpx2
import pytest
from fastapi import FastAPI

from dpace_serve.web import routes


class FakeRecorder:
    def snapshot(self, num_records, *, shows_ids):
        return {"asked": num_records, "shows_ids": shows_ids}

    def records_after(self, sequence, limit, *, shows_ids):
        return {"after": sequence, "limit": limit, "shows_ids": shows_ids}

    def history(self):
        return {"interval_seconds": 10, "points": [{"time": 1.0}]}


def app(keys=(), recorder=None, root_path="", admin_key=None):
    application = FastAPI(root_path=root_path)
    application.state.dpace = recorder
    routes.attach(application, keys, admin_key)

    @application.get("/health")
    async def health():
        return {}

    return application


async def get(application, path, **headers):
    transport = httpx2.ASGITransport(app=application)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path, headers=headers)


async def test_it_answers_what_the_recorder_knows():
    response = await get(app(recorder=FakeRecorder()), "/dpace/acceptance?records=3")
    assert response.json() == {"asked": 3, "shows_ids": False}


async def test_no_records_are_given_unless_asked_for():
    response = await get(app(recorder=FakeRecorder()), "/dpace/acceptance")
    assert response.json() == {"asked": 0, "shows_ids": False}


@pytest.mark.parametrize("keys", [(), ("one",)])
async def test_the_ids_of_requests_are_for_the_admin_key_only(keys):
    application = app(keys, FakeRecorder(), admin_key="admin")
    readers = {"one": False, "admin": True} if keys else {"": False, "one": False, "admin": True}
    for key, shows_ids in readers.items():
        headers = {"authorization": f"Bearer {key}"}
        response = await get(application, "/dpace/acceptance?records=1", **headers)
        assert response.json()["shows_ids"] is shows_ids


async def test_without_a_drafter_it_says_so():
    assert (await get(app(), "/dpace/acceptance")).json() == {"drafter": None}
    assert (await get(app(), "/dpace/history")).json() == {"points": []}


async def test_the_history_is_read_with_the_same_key():
    application = app(keys=["one"], recorder=FakeRecorder())
    assert (await get(application, "/dpace/history")).status_code == 401
    response = await get(application, "/dpace/history", authorization="Bearer one")
    assert response.json() == {"interval_seconds": 10, "points": [{"time": 1.0}]}


@pytest.mark.parametrize("asked", ["-1", "257", "many"])
async def test_the_number_of_records_is_bounded(asked):
    response = await get(app(recorder=FakeRecorder()), f"/dpace/acceptance?records={asked}")
    assert response.status_code == 422


async def test_records_are_followed_by_their_numbers():
    response = await get(app(recorder=FakeRecorder()), "/dpace/acceptance/records?after=9&limit=2")
    assert response.json() == {"after": 9, "limit": 2, "shows_ids": False}
    response = await get(app(recorder=FakeRecorder()), "/dpace/acceptance/records")
    assert response.json() == {"after": 0, "limit": 64, "shows_ids": False}


async def test_followed_records_want_a_key_and_show_ids_for_the_admin_key_only():
    application = app(["one"], FakeRecorder(), admin_key="admin")
    path = "/dpace/acceptance/records"
    assert (await get(application, path)).status_code == 401
    for key, shows_ids in {"one": False, "admin": True}.items():
        response = await get(application, path, authorization=f"Bearer {key}")
        assert response.json()["shows_ids"] is shows_ids


async def test_without_a_drafter_there_are_no_records_to_follow():
    answer = (await get(app(), "/dpace/acceptance/records")).json()
    assert (answer["boot"], answer["records"]) == (None, [])


@pytest.mark.parametrize(
    "asked", ["after=-1", "after=9007199254740993", "limit=-1", "limit=65", "after=all"]
)
async def test_what_is_asked_of_followed_records_is_bounded(asked):
    response = await get(app(recorder=FakeRecorder()), f"/dpace/acceptance/records?{asked}")
    assert response.status_code == 422


async def test_any_of_the_keys_opens_it():
    application = app(keys=["one", "two"])
    for key in ("one", "two"):
        response = await get(application, "/dpace/acceptance", authorization=f"Bearer {key}")
        assert response.status_code == 200


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic one", "one"])
async def test_without_a_right_key_it_is_401_in_the_openai_shape(header):
    headers = {"authorization": header} if header else {}
    response = await get(app(keys=["one"]), "/dpace/acceptance", **headers)
    assert response.status_code == 401
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == 401
    assert "one" not in response.text.replace("Authorization", "")


async def test_the_key_guards_everything_below_dpace_and_nothing_else():
    application = app(keys=["one"])
    assert (await get(application, "/dpace/anything")).status_code == 401
    assert (await get(application, "/dpace/static")).status_code == 401
    assert (await get(application, "/health")).status_code == 200
    assert (await get(application, "/dpaceful")).status_code == 404


async def test_a_forged_host_header_does_not_open_it():
    response = await get(app(keys=["one"]), "/dpace/acceptance", host="test/health?x=")
    assert response.status_code == 401


@pytest.mark.parametrize("root_path", ["/", "/d", "/dp", "/dpace", "/behind"])
async def test_a_root_path_does_not_open_it(root_path):
    application = app(keys=["one"], root_path=root_path)
    behind = f"{root_path.rstrip('/')}/dpace/acceptance"
    assert (await get(application, behind)).status_code == 401
    assert (await get(application, "/dpace/acceptance")).status_code == 401


async def test_the_verdict_is_what_the_comparisons_say_and_wants_a_key():
    application = app(keys=["one"])
    application.state.dpace_comparisons = SimpleNamespace(to_dict=lambda: {"comparisons": ["b"]})
    assert (await get(application, "/dpace/verdict")).status_code == 401
    response = await get(application, "/dpace/verdict", authorization="Bearer one")
    assert response.json() == {"comparisons": ["b"]}


async def test_without_a_drafter_there_is_no_verdict():
    answer = (await get(app(), "/dpace/verdict")).json()
    assert (answer["champion"], answer["comparisons"]) == (None, [])
