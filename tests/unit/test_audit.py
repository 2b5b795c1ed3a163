"""What the audit makes of pip-audit's findings."""

from tests.audit import verdict

CLEAN = {"name": "a", "version": "1", "vulns": []}
FLAWED = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


def test_nothing_known_passes_and_says_how_many_were_looked_at() -> None:
    assert verdict([CLEAN, CLEAN]) == (True, "2 pinned dependencies, no known vulnerability")


def test_a_known_vulnerability_fails_by_its_name() -> None:
    passed, words = verdict([CLEAN, FLAWED, SKIPPED])
    assert not passed
    assert "b 2: CVE-1, CVE-2" in words


def test_a_few_that_could_not_be_looked_up_fail() -> None:
    assert verdict([CLEAN, SKIPPED]) == (False, "not looked up, the others are clean: c")


def test_a_registry_without_advisories_is_no_clean_bill() -> None:
    passed, words = verdict([SKIPPED, SKIPPED])
    assert passed
    assert words.startswith("NOT AUDITED")
