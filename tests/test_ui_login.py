"""The password: guessed slowly however it is tried, known at once, and kept by cookies that nobody else reads."""

import asyncio

import httpx
import pytest
from browser import Served

from kto_workbench.ui import security

pytestmark = pytest.mark.reliability("Guessing the password is slow, and keeps nobody else out")

PASSWORD = "open sesame"
SPELLINGS = ["/login", "/login/", "/login//", "//login", "/./login", "/Login", "/%6cogin", "/login%2f", "/%2flogin/"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("login")
    served = Served(folder / "workspace", folder / "server.log", host="0.0.0.0", password=PASSWORD)
    yield served
    served.stop()


def visitor(served, address="127.0.0.1", **headers):
    """A program at one of this machine's own addresses."""
    transport = httpx.HTTPTransport(local_address=address)
    return httpx.Client(base_url=f"http://127.0.0.1:{served.port}", transport=transport, timeout=60, headers=headers)


def log_in(client, password=PASSWORD, path="/login"):
    return client.post(path, data={"username": "me", "password": password})


async def side_by_side(served, address, count, enough, then, headers=lambda i: {}):
    """Send wrong passwords at once; when `enough` of their answers are in, call `then`, and let the rest go."""
    transport = httpx.AsyncHTTPTransport(local_address=address, limits=httpx.Limits(max_connections=None))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}", transport=transport, timeout=60) as client:
        asked = [
            asyncio.create_task(
                client.post("/login", data={"username": "me", "password": f"guess {i}"}, headers=headers(i))
            )
            for i in range(count)
        ]
        answers = []
        for one in asyncio.as_completed(asked):
            answers.append((await one).status_code)
            if enough(answers):
                break
        await asyncio.to_thread(then)
        held = sum(not one.done() for one in asked)
        for one in asked:
            one.cancel()
        return answers, held


def test_many_wrong_passwords_at_once_keep_the_right_one_out_nowhere(served):
    def come_in():
        for address in ("127.0.1.2", "127.0.1.1"):
            with visitor(served, address) as owner:
                assert log_in(owner).status_code == 200

    enough = lambda answers: len(answers) == security.FREE_TRIES  # the brake holds from here on
    answers, held = asyncio.run(side_by_side(served, "127.0.1.1", 24, enough, come_in))
    assert set(answers) == {400}
    assert held > 12, "the right password waited for the wrong ones"


def test_who_says_that_he_asks_for_others_is_not_believed(served):
    def forged(i):
        return {"x-forwarded-for": f"10.0.0.{i}", "x-real-ip": f"10.0.0.{i}", "forwarded": f"for=10.0.0.{i}"}

    sent_away = lambda answers: 429 in answers
    answers, _ = asyncio.run(side_by_side(served, "127.0.4.1", 60, sent_away, lambda: None, forged))
    assert 429 in answers


@pytest.mark.parametrize("path", SPELLINGS)
def test_the_right_password_is_right_on_braked_paths_only(served, path):
    with visitor(served, "127.0.3.1") as owner:
        answer = log_in(owner, path=path)
        if answer.status_code == 200 and "set-cookie" in answer.headers:
            assert security.plain_path(httpx.URL(path).path) == "/login"
            assert owner.get("/config").status_code == 200
        else:
            assert owner.get("/config").status_code == 401


@pytest.mark.parametrize("tls", [False, True])
def test_the_cookies_are_marked(served, tls):
    with visitor(served, "127.0.5.1", **({"x-forwarded-proto": "https"} if tls else {})) as owner:
        cookies = log_in(owner).headers.get_list("set-cookie")
        assert cookies
        for cookie in cookies:
            attributes = [part.strip().lower() for part in cookie.split(";")]
            assert "httponly" in attributes and "samesite=lax" in attributes
            assert ("secure" in attributes) == tls


def test_a_picture_of_the_logout_ends_no_session(served):
    with visitor(served, "127.0.6.1") as owner, visitor(served, "127.0.6.1") as other:
        log_in(owner)
        log_in(other)  # under the same name
        for path in ("/logout", "/logout/", "/logout?all_session=true", "//logout", "/Logout"):
            for send in (owner.get, owner.head, owner.options):
                send(path, follow_redirects=True)
                assert owner.get("/config").status_code == 200, (path, send)
        foreign = owner.post("/logout", headers={"origin": "http://evil.example"})
        assert foreign.status_code == 403 and owner.get("/config").status_code == 200
        kept = dict(owner.cookies)
        assert owner.post("/logout").status_code == 303
        owner.cookies.update(kept)  # the server forgets the session, not only the browser
        assert owner.get("/config").status_code == 401
        assert other.get("/config").status_code == 200


def test_passwords_are_compared_in_constant_time_and_of_any_characters():
    right = security.checker("pässword \udcff")
    assert not right("me", "pässword \udcff"), "past the brake only"
    token = security.BRAKED.set(True)
    try:
        assert right("me", "pässword \udcff")
        for wrong in ("", "p", "pässword", "pässword \udcfe", "x" * 100_000, "\ud800"):
            assert not right("me", wrong)
    finally:
        security.BRAKED.reset(token)


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(security.time, "monotonic", clock.monotonic)
    monkeypatch.setattr(security.asyncio, "sleep", clock.sleep)
    return clock


def login_of(guard, address, status=400):
    """The status and the seconds that one try takes."""
    sent = []

    async def send(message):
        sent.append(message)

    guard.app.status = status
    scope = {"type": "http", "method": "POST", "path": "/login", "headers": [], "client": (address, 1)}
    before = security.time.monotonic()
    asyncio.run(guard(scope, None, send))
    return sent[0]["status"], security.time.monotonic() - before


class Always:
    status = 400

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": self.status, "headers": []})


def test_guessing_gets_slow_for_an_address_and_is_forgiven(clock):
    guard = security.PatientLogin(Always())
    took = [login_of(guard, "10.0.0.1")[1] for _ in range(11)]
    assert took == [0, 0, 0, 0, 0, 1, 2, 4, 8, 10, 10]
    assert login_of(guard, "10.0.0.2") == (400, 0), "somebody else's failures"
    assert login_of(guard, "10.0.0.1", 200) == (200, 0), "the right password does not wait"
    assert [login_of(guard, "10.0.0.1")[1] for _ in range(6)] == [0, 0, 0, 0, 0, 1]
    clock.now += security.FORGIVEN_SECONDS + 1
    assert login_of(guard, "10.0.0.1") == (400, 0)


def test_an_answer_by_redirect_is_no_success(clock):
    guard = security.PatientLogin(Always())
    took = [login_of(guard, "10.0.0.1", 307 if i % 2 else 400)[1] for i in range(8)]
    assert took == [0, 0, 0, 0, 0, 1, 2, 4]


def test_who_sends_many_has_tries_that_run_out(clock):
    guard = security.PatientLogin(Always())

    async def nothing(seconds):
        pass

    async def tries(count):
        visitor = guard.visitor({"client": ("10.0.0.1", 1)})
        return [await visitor.may_try() for _ in range(count)]

    assert asyncio.run(tries(security.TRIES)) == [True] * security.TRIES and clock.now == 1000
    assert asyncio.run(tries(2)) == [True, True] and clock.now == 1000 + 2 * security.MOST_PATIENCE


def test_only_so_many_addresses_are_remembered(clock):
    guard = security.PatientLogin(Always())
    for i in range(security.MOST_VISITORS + 10):
        guard.visitor({"client": (f"10.0.{i // 256}.{i % 256}", 1)})
    assert len(guard.visitors) == security.MOST_VISITORS
    of_one_house = {security._neighbourhood((f"2001:db8:1:2{i:02x}::{i}", 1)) for i in range(256)}
    assert len(of_one_house) == 1 and security._neighbourhood(("::ffff:10.0.0.1", 1)) == "10.0.0.1"
