"""Servers that send elsewhere whoever asks them.

They are not followed: the key that goes with a request is nobody else's, and every line would be sent twice.
"""

from yarl import URL

from batchyard.batch_runner.exchange import Answer

_MOST_SHOWN = 200  # characters


def is_redirect(answer: Answer) -> bool:
    return 300 <= answer.status < 400


def described(answer: Answer, base_url: str) -> str:
    """What a redirect says, for people. Where it leads is told by scheme, host and port: all else may be secret.

    Args:
        base_url: The server's.
    """
    return f"the server answered {answer.status}, {_target(answer, base_url)}"


def _target(answer: Answer, base_url: str) -> str:
    location = answer.header("location")
    if location is None:
        return "which is no answer to a request"
    try:
        here = URL(base_url).origin()
        there = here.join(URL(location)).origin()
    except ValueError:
        return "which redirects to where nobody can go"
    if there == here:
        return "which redirects to another path of its own: set api_base to the address that answers"
    return f"which redirects to {str(there)[:_MOST_SHOWN]}: set api_base to that address"
