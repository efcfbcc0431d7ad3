"""What the dispatcher tells Prometheus, at http://127.0.0.1:PORT/metrics while it is at work: its events, counted.

    fl_sim_jobs_queued                      gauge      jobs waiting or under way
    fl_sim_workers                          gauge      attack workers
    fl_sim_jobs_done_total{label}           counter    jobs that left their reconstructions
    fl_sim_jobs_failed_total{label}         counter    jobs that were given up
    fl_sim_jobs_retried_total{label}        counter    tries that ended because the worker died, and were made again
    fl_sim_job_seconds{label}               histogram  wall time of the jobs that are done

`label` is the attack's in the config. All are there, and 0, when a dispatch starts.
"""

import socket
from collections.abc import Callable, Iterable
from typing import Any

from fl_sim.config import ConfigError

ADDRESS = "127.0.0.1"  # whoever may read it from elsewhere is for a proxy to say
BUCKETS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)  # seconds


def check(port: int) -> None:
    """ConfigError if something listens at `port` already: whoever asks for metrics learns it before the run."""
    if not port:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server itself will
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            raise ConfigError(_refused(port, error)) from error


def open_metrics(port: int, labels: Iterable[str]) -> Callable[..., None]:
    """Serve the metrics of a dispatch of the attacks `labels`; the listener (event, **facts) that counts its events.

    Port 0: nothing is served, nor counted. Raises ConfigError if the port is in use.
    """
    if not port:
        return lambda event, **facts: None
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

    registry = CollectorRegistry()
    queued = Gauge("fl_sim_jobs_queued", "Jobs waiting or under way.", registry=registry)
    workers = Gauge("fl_sim_workers", "Attack workers.", registry=registry)
    done = Counter("fl_sim_jobs_done", "Jobs that left their reconstructions.", ["label"], registry=registry)
    failed = Counter("fl_sim_jobs_failed", "Jobs that were given up.", ["label"], registry=registry)
    retried = Counter("fl_sim_jobs_retried", "Tries that were made again.", ["label"], registry=registry)
    seconds = Histogram(
        "fl_sim_job_seconds", "Wall time of the jobs that are done.", ["label"], registry=registry, buckets=BUCKETS
    )

    for label in labels:  # a counter that appears with its first count is one short wherever rates are taken
        for metric in (done, failed, retried, seconds):
            metric.labels(label)

    def count(event: str, **facts: Any) -> None:
        if event == "start":
            workers.set(facts["workers"])
        elif event == "round":
            queued.inc(facts["jobs"])
        elif event == "retry":
            retried.labels(facts["label"]).inc()
        elif event == "failed":
            failed.labels(facts["label"]).inc()
            queued.dec()
        elif event == "done":
            done.labels(facts["label"]).inc()
            seconds.labels(facts["label"]).observe(facts["seconds"])
            queued.dec()

    try:
        start_http_server(port, addr=ADDRESS, registry=registry)
    except OSError as error:
        raise ConfigError(_refused(port, error)) from error
    return count


def _refused(port: int, error: OSError) -> str:
    return (
        f"workers.metrics_port = {port} cannot be had on {ADDRESS} ({error.strerror}); give a port that is free, "
        "or 0 for no metrics"
    )
