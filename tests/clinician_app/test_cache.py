"""The cache shows a launch its own patient, whatever the SQL says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from click.testing import CliRunner

from clinician_app.cache import CacheKey, ChartCache, launch_access
from clinician_app.cache_command import cache as cache_group
from imaging_core.database import Pool
from imaging_core.errors import Retryable
from tests.conftest import Stores

KEY = CacheKey("https://a.example/fhir", "launch:1", "p1")
OTHERS = [
    CacheKey("https://a.example/fhir", "launch:1", "p2"),
    CacheKey("https://a.example/fhir", "launch:2", "p1"),
    CacheKey("https://b.example/fhir", "launch:1", "p1"),
]
NOW = datetime.now(UTC)


@pytest.fixture
def cache(page_pool: Pool, owner_pool: Pool) -> ChartCache:
    with owner_pool.connection() as connection:
        connection.execute("TRUNCATE cache.resource, cache.reading")
    made = ChartCache(page_pool)
    for number, key in enumerate([KEY, *OTHERS]):
        made.store(key, "studies", [{"resourceType": "ImagingStudy", "id": f"s{number}"}], NOW)
    return made


@pytest.mark.requirement("XE8")
def test_without_a_where_another_patient_still_does_not_show(cache: ChartCache) -> None:
    with cache.transaction(KEY) as connection:
        for rows in (
            connection.execute("SELECT server, access, patient FROM cache.resource").fetchall(),
            connection.execute("SELECT server, access, patient FROM cache.reading").fetchall(),
        ):
            assert rows == [(KEY.server, KEY.access, KEY.patient)]
        assert connection.execute("UPDATE cache.resource SET body = '{}'").rowcount == 1
        assert connection.execute("DELETE FROM cache.resource").rowcount == 1


@pytest.mark.requirement("XE8")
def test_without_a_launch_there_is_nothing(cache: ChartCache, page_pool: Pool) -> None:
    for _ in range(3):  # a pooled connection that served a launch before, too
        cache.load(KEY)
        with page_pool.connection() as connection:
            assert connection.execute("SELECT count(*) FROM cache.resource").fetchone() == (0,)
            assert connection.execute("SELECT count(*) FROM cache.study_progress").fetchone() == (0,)


@pytest.mark.requirement("XE8")
def test_nothing_can_be_written_for_another_patient(cache: ChartCache) -> None:
    with pytest.raises((psycopg.errors.InsufficientPrivilege, Retryable), match=r"[Pp]rivilege|policy"):
        _write_for_another(cache)


def _write_for_another(cache: ChartCache) -> None:
    with cache.transaction(KEY) as connection:
        connection.execute(
            "INSERT INTO cache.reading (server, access, patient, part, read_at) VALUES (%s, %s, 'p2', 'x', now())",
            (KEY.server, KEY.access),
        )


def test_the_owner_is_bound_too(cache: ChartCache, owner_pool: Pool) -> None:
    with owner_pool.connection() as connection:
        assert connection.execute("SELECT count(*) FROM cache.resource").fetchone() == (0,)


def test_the_page_role_is_no_owner_and_no_superuser(page_pool: Pool) -> None:
    with page_pool.connection() as connection:
        row = connection.execute(
            "SELECT rolsuper, rolbypassrls, pg_get_userbyid(c.relowner) = current_user"
            " FROM pg_roles, pg_class c WHERE rolname = current_user AND c.oid = 'cache.resource'::regclass"
        ).fetchone()
        assert row == (False, False, False)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT 1 FROM ledger.study")


def test_an_older_answer_does_not_replace_a_newer_one(cache: ChartCache) -> None:
    cache.store(KEY, "studies", [{"resourceType": "ImagingStudy", "id": "old"}], NOW - timedelta(seconds=9))
    cache.store(KEY, "studies", [{"resourceType": "ImagingStudy", "id": "new"}], NOW + timedelta(seconds=1))
    assert [item["id"] for item in cache.load(KEY)["studies"].resources] == ["new"]


def test_an_empty_answer_is_an_answer(cache: ChartCache) -> None:
    cache.store(KEY, "reports", [], NOW)
    assert cache.load(KEY)["reports"].resources == ()
    assert "findings" not in cache.load(KEY)


def test_what_is_a_day_old_is_not_shown(cache: ChartCache) -> None:
    cache.store(KEY, "reports", [{"resourceType": "DiagnosticReport", "id": "1"}], NOW - timedelta(hours=25))
    assert "reports" not in cache.load(KEY)


def test_forgotten_is_gone_for_this_key_only(cache: ChartCache) -> None:
    cache.forget(KEY, "studies")
    assert cache.load(KEY) == {}
    assert all("studies" in cache.load(key) for key in OTHERS)


@pytest.mark.parametrize("word", ["a\x00b", "a\\u0000b", "\\\x00", "é\u2028"])
def test_any_text_can_be_kept(cache: ChartCache, word: str) -> None:
    cache.store(KEY, "reports", [{"resourceType": "DiagnosticReport", "id": "1", "conclusion": word}], NOW)
    assert cache.load(KEY)["reports"].resources[0]["conclusion"] == word.replace("\x00", "")


@pytest.mark.requirement("XE8")
def test_users_and_scopes_share_nothing() -> None:
    rights = {
        launch_access("iss", "user", ["a", "b"]),
        launch_access("iss", "user", ["a"]),
        launch_access("iss", "other", ["a", "b"]),
        launch_access("iss2", "user", ["a", "b"]),
        launch_access("iss", "user", ["ab"]),
    }
    assert len(rights) == 5
    assert launch_access("iss", "user", ["b", "a"]) == launch_access("iss", "user", ["a", "b"])


def test_the_command_empties_the_cache(cache: ChartCache, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", stores.url("imaging_owner"))
    result = CliRunner().invoke(cache_group, ["rebuild"])
    assert result.exit_code == 0, result.output
    assert all(cache.load(key) == {} for key in (KEY, *OTHERS))
