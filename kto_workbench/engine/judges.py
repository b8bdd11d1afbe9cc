"""Every judge by its name: rules, the demo's, reward models, and those behind an endpoint; see judging/rules.py."""

from pathlib import Path

from kto_workbench.errors import ConfigError
from kto_workbench.judging.endpoint import EndpointJudge
from kto_workbench.judging.rules import Rule, make_rule, parse_judge
from kto_workbench.judging.verdicts import Judge
from kto_workbench.runs.endpoints import Endpoint, find_endpoint


def find_judge(name: str, workspace: str | Path, *, criteria: str = "", max_tokens: int = 16) -> Judge:
    """The judge that goes by a name.

    Args:
        name: as judging/rules.py lists them.
        workspace: whose endpoints are known by name, and whose cache keeps their replies.
        criteria: what makes an answer better, for an endpoint.
        max_tokens: an endpoint's longest reply.

    Raises:
        ConfigError: there is no such judge or endpoint, or the endpoint's key is not set.
        ModelError: the reward model can't be loaded.
    """
    kind, argument = parse_judge(name)
    if kind == "demo":
        from kto_workbench.demo.judge import kind_and_brief

        return Rule("demo", kind_and_brief)
    if kind == "reward":
        from kto_workbench.engine.reward_model import RewardModel

        return RewardModel(argument)
    if kind == "endpoint":
        if not argument:
            raise ConfigError("Judge `endpoint` needs a name, `endpoint:NAME`, or an address, --judge-url URL.")
        return endpoint_judge(find_endpoint(argument, workspace), workspace, criteria=criteria, max_tokens=max_tokens)
    return make_rule(kind, argument)


def endpoint_judge(endpoint: Endpoint, workspace: str | Path, *, criteria: str, max_tokens: int) -> EndpointJudge:
    """A judge behind an address, whose replies the workspace keeps. Raises ConfigError if its key is not set."""
    cache = Path(workspace) / "cache" / "judgments"
    return EndpointJudge(endpoint, criteria=criteria, max_tokens=max_tokens, cache=cache)
