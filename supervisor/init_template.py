"""The fleet file that `podsup init` writes: everything common, most of it commented out."""

# ruff: noqa: E501  (the lines are as wide as a reader of the file likes them)

from __future__ import annotations

INIT_TEMPLATE = """\
# A fleet of pods. `podsup check` says what is wrong with this file, `podsup start` runs it.

[fleet]
# name = "review"               # default: the name of this folder
# workspace = "."               # where pods work, and where relative paths start

[supervisor]
# hang_timeout_s = 60           # a pod silent for so long is ended and started again; 0 = never

# What every pod has unless it says otherwise.
[defaults.model]
scheme = "scripted"             # the embedded model: no key, no network; it echoes or plays answers
# scheme = "anthropic"          # or openai_chat, openai_responses, gemini
# model_id = "claude-sonnet-4-6"
# api_key_env = "MY_KEY"        # default: ANTHROPIC_API_KEY, OPENAI_API_KEY or GEMINI_API_KEY

[[pod]]
name = "hello"
task = "Say hello in a file."   # delivered once; without it the pod waits to be spoken to
restart = "on-failure"          # never | on-failure | always
# A pod reads its workspace, and writes only here:
scope = { allow = [{ target = "out/hello", permission = "write" }] }
# engine = { max_turns = 40, instruction = "Be brief." }
# profile = "profiles/writer.toml"   # settings that pods share, in a file of their own

# What the embedded model answers, in order. Then, or without answers: `echo: <what you said>`.
[[pod.model.answers]]
text = "Writing it."
tool_calls = [
    { name = "Write", arguments = { file_path = "${cwd}/out/hello/hello.txt", content = "hello from ${pod}\\n" } },
]
[[pod.model.answers]]
text = "Done."
"""
"""Loads as it stands, with nothing in it that this version has not."""
