"""Pods with a provider's adapter, its SDK, a real server on loopback, and a key that is nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.fleets import connect, row
from tests.support.home import Home
from tests.support.providers import anthropic_server as ant
from tests.support.providers import openai_server as srv
from tests.support.providers.openai_sse import Reply
from tests.support.providers.sse import Provider
from tests.support.providers.threaded import serving

pytestmark = pytest.mark.process

KEY = "sk-ant-" + "k3y" * 9


def fleet(provider: Provider, more: str = "") -> str:
    """Return a fleet of one pod whose model is behind that server."""
    return fleet_at("anthropic", "claude-sonnet-4-6", provider.url, more)


def fleet_at(scheme: str, model_id: str, url: str, more: str = "") -> str:
    """Return a fleet of one pod that speaks to a model at an address."""
    return f"""[fleet]
name = "e2e"
[[pod]]
name = "alice"
scope = {{ allow = [{{ target = "out", permission = "write" }}] }}
[pod.model]
scheme = "{scheme}"
model_id = "{model_id}"
base_url = "{url}"
{more}
"""


def start(home: Home, text: str, **environment: str) -> None:
    home.env |= environment
    home.write("podsup.toml", text)
    home.podsup("start", "-d", "--wait", "idle")


def places_of(secret: str, home: Home) -> list[str]:
    """Return where a text is: files of the home, arguments and environments of its processes."""
    found = []
    for path in home.root.rglob("*"):
        if path.is_file() and path.name != "key" and secret.encode() in path.read_bytes():
            found.append(str(path))
    for pid in home.processes():
        for name in ("cmdline", "environ"):
            try:
                if secret.encode() in Path(f"/proc/{pid}/{name}").read_bytes():
                    found.append(f"/proc/{pid}/{name}")
            except OSError:
                continue
    return found


def test_a_pod_works_with_a_providers_model_and_its_key_is_nowhere(home: Home) -> None:
    wrote = json.dumps({"file_path": "out/a.txt", "content": "hi\n"})
    env = json.dumps({"command": "env"})
    with Provider(
        ant.answer(
            ant.thinking("A file."),
            ant.text("Writing.", index=1),
            ant.call("t1", wrote, name="Write", index=2),
            ant.call("t2", env, name="Bash", index=3),
            stop="tool_use",
        ),
        ant.answer(ant.text("Done.")),
    ) as provider:
        start(home, fleet(provider, "price = { input = 3, output = 15 }"), ANTHROPIC_API_KEY=KEY)
        done = home.json("run", "alice", "write", "--wait")
        assert (done["result"], done["text"].splitlines()[-1]) == ("finished", "Done.")
        assert done["usage"]["cost_usd"] > 0
        assert (home.work / "out/a.txt").read_text() == "hi\n"
        first, second = provider.requests
        assert first.headers["authorization"] == f"Bearer {KEY}"
        assert [block["type"] for block in second.json["messages"][1]["content"]] == [
            "thinking",
            "text",
            "tool_use",
            "tool_use",
        ]
        home.podsup("session", "export", "alice", "--format", "jsonl")
        home.podsup("logs", "alice")
        assert places_of(KEY, home) == []
        shown = home.podsup("status", "alice").stdout + home.podsup("events").stdout
        assert KEY not in shown
        assert "claude-sonnet-4-6" in shown
        home.podsup("restart", "alice")
        provider.play(ant.answer(ant.text("Still here.")))
        assert home.json("run", "alice", "again", "--wait")["text"] == "Still here."
        again = provider.requests[-1].json["messages"]
        assert again[1]["content"][0]["signature"], "a signature survives a restart"
        home.down()


WROTE = json.dumps({"file_path": "out/a.txt", "content": "hi\n"})


def chat_replies() -> list[Reply]:
    call = srv.call_delta(srv.piece(id="t1", name="Write", arguments=WROTE))
    done, again = srv.chat(srv.said("Done.")), srv.chat(srv.said("Still here."))
    return [srv.chat(srv.said("Writing."), call, finish="tool_calls"), done, again]


def responses_replies() -> list[Reply]:
    first = srv.Script().reasoning("A file.", encrypted="gAAA-opaque").text("Writing.")
    first = first.call("t1", WROTE, name="Write")
    done, again = srv.Script().text("Done."), srv.Script().text("Still here.")
    return [one.completed().reply() for one in (first, done, again)]


@pytest.mark.parametrize("scheme", ["openai_chat", "gemini", "openai_responses"])
def test_a_pod_works_with_each_of_openais_formats_and_its_key_is_nowhere(
    home: Home, scheme: str
) -> None:
    replies = responses_replies() if scheme == "openai_responses" else chat_replies()
    with serving(replies) as server:
        text = fleet_at(scheme, "gpt-5-mini", f"{server.url}/v1")
        start(home, text, OPENAI_API_KEY=KEY, GEMINI_API_KEY=KEY)
        done = home.json("run", "alice", "write", "--wait")
        assert (done["result"], done["text"].splitlines()[-1]) == ("finished", "Done.")
        assert "cost_usd" not in done["usage"], "a name behind an address may mean anything"
        assert (home.work / "out/a.txt").read_text() == "hi\n"
        home.podsup("restart", "alice")
        assert home.json("run", "alice", "again", "--wait")["text"] == "Still here."
        assert all(one.headers["authorization"] == f"Bearer {KEY}" for one in server.requests)
        if scheme == "openai_responses":
            kept = [
                one for one in server.requests[-1].body["input"] if one.get("type") == "reasoning"
            ]
            assert kept[0]["encrypted_content"] == "gAAA-opaque", "it survives a restart"
        assert places_of(KEY, home) == []
        home.down()


def test_a_pod_without_its_key_fails_with_that_cause_and_starts_when_it_is_there(
    home: Home,
) -> None:
    with Provider(ant.answer(ant.text("Hello."))) as provider:
        key = home.root / "key"
        home.write("podsup.toml", fleet(provider, f'api_key_file = "{key}"'))
        assert str(key) in home.podsup("check").stderr
        failed = home.podsup("start", "-d", "--wait", "idle", ok=1)
        assert "missing_key" in failed.stdout + failed.stderr
        ps = home.json("ps")["pods"][0] if home.podsup("ps", ok=None).returncode == 0 else None
        assert ps is None or (ps["status"], ps["restarts"]) == ("failed", 0)
        key.write_text(KEY)
        key.chmod(0o600)
        home.podsup("start", "-d", "--wait", "idle")
        assert home.json("run", "alice", "hi", "--wait")["text"] == "Hello."
        assert places_of(KEY, home) == []
        home.down()


def test_a_wrong_key_fails_the_run_in_words_without_the_key_and_is_not_tried_again(
    home: Home,
) -> None:
    refusal = ant.refusal(401, "authentication_error", f"invalid x-api-key {KEY}")
    with Provider(refusal) as provider:
        start(home, fleet(provider), ANTHROPIC_API_KEY=KEY)
        done = home.json("run", "alice", "hi", "--wait", ok=1)
        assert done["error"]["code"] == "provider_error"
        assert KEY not in json.dumps(done)
        assert len(provider.requests) == 1
        assert places_of(KEY, home) == []
        home.down()


def test_a_model_that_nobody_knows_is_shown_as_unknown_with_the_default_window(
    home: Home,
) -> None:
    with Provider(ant.answer(ant.text("Hello."))) as provider:
        text = fleet(provider).replace("claude-sonnet-4-6", "my-own-model")
        start(home, text, ANTHROPIC_API_KEY=KEY)
        with connect(home) as client:
            assert row(client, "alice").context_window == 200_000
        status = home.json("status", "alice")
        assert status["greeting"]["provider"] == "unknown"
        assert any("my-own-model" in alert["message"] for alert in status["alerts"])
        home.json("run", "alice", "hi", "--wait")
        assert home.json("ps")["pods"][0]["cost_usd"] is None
        home.down()
