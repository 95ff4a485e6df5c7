"""The list of ways out of the cage, tried on this machine: `python -m podproc.escapes`.

A refusal proves nothing by itself: a command that cannot run at all is refused everything. So each
attempt is made twice, in the same words. Once where it has to work: on something inside the scope,
or, where a cage has nothing of the kind, without a cage. And once, caged, on something outside,
where it must have no effect. Whether it had one is not asked of the command, but seen: what is
outside is looked at before and after, to the last byte and attribute, and secrets are looked for in
all that came out.

What a level is known to leave open is told by `protocol.cage` and not counted. An attempt that a
machine does not permit without a cage either shows nothing, and says so.

Everything an attempt is aimed at was made for it, in throw-away folders and processes, so that one
that gets out does no harm.

    attempts  the list, as data
    ground    what attempts are aimed at, and how it is looked at
    run       makes the attempts of one level and judges them
"""
