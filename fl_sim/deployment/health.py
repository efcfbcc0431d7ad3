"""Whether a server of a deployment answers."""

import ssl
import urllib.error
import urllib.request

from fl_sim.deployment import State

PATIENCE = 5  # seconds for an answer


def healthy(url: str, state: State) -> bool:
    """Whether the server at `url` answers: http://, https:// with a certificate of `state`'s authority, or grpc://."""
    if url.startswith("grpc://"):
        return _serving(url.removeprefix("grpc://"))
    trust = ssl.create_default_context(cafile=str(state.authority)) if url.startswith("https://") else None
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=PATIENCE, context=trust) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _serving(address: str) -> bool:
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    with grpc.insecure_channel(address) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=PATIENCE)
        except grpc.RpcError:
            return False
    return bool(answer.status == HealthCheckResponse.SERVING)
