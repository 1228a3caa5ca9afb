"""Claims of plan steps: one holder at a time, leases that pass, and holders that come back."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.params import TrainBaseParams
from pipeline.stages.train_base import train_base
from pipeline.tracking import claims as module
from pipeline.tracking import names
from pipeline.tracking.claims import Claim, ClaimedElsewhereError, ClaimLostError, Claims, open_claims
from pipeline.tracking.plan_context import PlanContext

ELSEWHERE = {"process": "17 4.20 another-boot/pid:[4026531836]", "host": "elsewhere"}
QUICK = {"dataset": "digits", "classes": "0-4", "epochs": 2, "width": 8, "hidden_layers": 2, "threads": 1}


@pytest.fixture
def claims(state: Path) -> Claims:
    return open_claims()


def claim_elsewhere(claims: Claims, monkeypatch: pytest.MonkeyPatch, key: str = "key") -> Claim:
    """A claim of a process on another machine."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "process_identity", lambda: ELSEWHERE)
        return claims.acquire(key)


def test_key_has_one_holder(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    held = claim_elsewhere(claims, monkeypatch)
    assert claims.is_held("key")
    with pytest.raises(ClaimedElsewhereError, match="process 17 on elsewhere runs it"):
        claims.acquire("key")
    held.release()
    assert not claims.is_held("key") and claims.acquire("key").token == 2


@pytest.mark.slow
def test_postgresql_keeps_claims_of_several_machines(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_STORAGE", new_database())
    monkeypatch.setenv("PIPELINE_LEASE_SECONDS", "2")
    claims = open_claims()
    assert claims.engine.dialect.name == "postgresql"
    monkeypatch.setattr(Claim, "_renew", lambda self: None)  # as if suspended
    old = claim_elsewhere(claims, monkeypatch)
    with pytest.raises(ClaimedElsewhereError, match="process 17 on elsewhere runs it"):
        claims.acquire("key")
    time.sleep(2.1)
    assert not claims.is_held("key") and claims.acquire("key").token == 2
    with pytest.raises(ClaimLostError):
        old.check()


def test_concurrent_claims_have_one_winner(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = lambda: {**ELSEWHERE, "process": f"{threading.get_ident()} 4.20 another-boot/pid:[1]"}  # noqa: E731
    monkeypatch.setattr(module, "process_identity", identity)
    won: list[int] = []
    start = threading.Barrier(8)

    def acquire() -> None:
        start.wait()
        with contextlib.suppress(ClaimedElsewhereError):
            won.append(claims.acquire("key").token)

    threads = [threading.Thread(target=acquire) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [1]


def test_expired_lease_is_taken_over_and_old_holder_notices(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Claim, "_renew", lambda self: None)  # as if suspended
    monkeypatch.setenv("PIPELINE_LEASE_SECONDS", "0.2")
    old = claim_elsewhere(claims, monkeypatch)
    old.record_run("a" * 32)
    old.check()
    time.sleep(0.3)
    new = claims.acquire("key")
    assert (new.token, new.previous_run_id) == (2, "a" * 32)
    with pytest.raises(ClaimLostError):
        old.check()
    old.release()
    new.check()  # the old holder's release had no effect
    assert claims.is_held("key")


def test_lease_is_renewed(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_LEASE_SECONDS", "0.6")
    held = claim_elsewhere(claims, monkeypatch)
    time.sleep(1.2)
    assert claims.is_held("key")
    held.release()


def test_claim_of_a_dead_process_is_taken_over_at_once(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    claim_elsewhere(claims, monkeypatch)
    monkeypatch.setattr(module, "process_lives", lambda process, host: False)
    assert not claims.is_held("key") and claims.acquire("key").token == 2


def test_step_that_another_process_runs_is_not_run(
    store: MlflowClient, claims: Claims, monkeypatch: pytest.MonkeyPatch, no_figures: None
) -> None:
    parent = store.create_run("0").info.run_id
    acquire = Claims.acquire

    def elsewhere(self: Claims, key: str) -> Claim:
        raise ClaimedElsewhereError(key, ELSEWHERE["process"], ELSEWHERE["host"])

    monkeypatch.setattr(Claims, "acquire", elsewhere)
    with pytest.raises(ClaimedElsewhereError):
        train_base(TrainBaseParams(**QUICK), plan_context=PlanContext(parent))
    assert len(store.search_runs(["0"])) == 1
    monkeypatch.setattr(Claims, "acquire", acquire)
    context = PlanContext(parent)
    result = train_base(TrainBaseParams(**QUICK), plan_context=context)
    assert not result.reused and context.claim is not None and not claims.is_held(context.claim.key)


def test_superseded_result_is_not_used(store: MlflowClient, claims: Claims, no_figures: None) -> None:
    parent = store.create_run("0").info.run_id
    first = train_base(TrainBaseParams(**QUICK), plan_context=PlanContext(parent))
    store.set_tag(first.run_id, names.SUPERSEDED_BY, "b" * 32)
    second = train_base(TrainBaseParams(**QUICK), plan_context=PlanContext(parent))
    assert not second.reused and second.run_id != first.run_id
    assert train_base(TrainBaseParams(**QUICK), plan_context=PlanContext(parent)).run_id == second.run_id


def test_lost_claim_uploads_nothing_and_raises(
    store: MlflowClient, claims: Claims, monkeypatch: pytest.MonkeyPatch, no_figures: None
) -> None:
    parent = store.create_run("0").info.run_id
    context = PlanContext(parent)
    monkeypatch.setattr(module, "process_lives", lambda process, host: False)
    reserve_then_lose = lambda params: claims.acquire(context.claim.key)  # type: ignore[union-attr]  # noqa: E731
    context.reserve = reserve_then_lose
    with pytest.raises(ClaimLostError):
        train_base(TrainBaseParams(**QUICK), plan_context=context)
    (run,) = [run for run in store.search_runs(["0"]) if run.info.run_id != parent]
    assert run.info.status == "RUNNING" and not run.data.metrics  # whoever took over closes it
