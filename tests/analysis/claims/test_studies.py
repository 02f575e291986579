"""The ledger beside those of other studies: made-up entries, the table's cells by hand."""

import json

import pytest

from e2e_lib.analysis.claims import studies
from e2e_lib.analysis.claims.ledger import CLAIMS


def entry(name, value, low=None, high=None, verdict="undecided", n_seeds=2, by_tokens=None):
    known = {"id": name, "short": f"short {name}", "value": value, "low": low, "high": high}
    return known | {"verdict": verdict, "n_seeds": n_seeds, "by_tokens": by_tokens or {}}


OWN = [entry("C1a", 2.5, 2.05, 2.95, "holds"), entry("C2a", 0.0449, -0.0563, 0.146)]
OTHER = [entry("C1a", 1.23456, 1.1, 1.4, "refuted"), entry("C7a", 1.0)]


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Two studies of which the second has a ledger, and one that is not there."""
    for name, ledger in (("first", OWN), ("second", OTHER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "claims.json").write_text(json.dumps(ledger))
    places = {name.title(): str(tmp_path / name) for name in ("first", "second", "third")}
    monkeypatch.setattr(studies, "STUDIES", places)
    return tmp_path


def test_a_study_stands_beside_the_others_that_are_there(shipped):
    assert studies.other_studies(OWN) == {"Second": OTHER}
    assert studies.other_studies(OTHER) == {"First": OWN}
    again = [OWN[0] | {"value": 2.4}, OWN[1]]  # the first study, trained once more
    assert studies.other_studies(again) == {"First": OWN, "Second": OTHER}
    (shipped / "second" / "claims.json").write_text("{")
    with pytest.raises(studies.ResultsError, match=r"claims\.json cannot be read"):
        studies.other_studies(OWN)


def test_the_readme_has_a_column_of_every_study(shipped):
    readme = shipped / "README.md"
    readme.write_text("a\n<!-- claims:begin -->\n<!-- claims:end -->\nb\n")
    studies.readme_block(shipped / "first", readme)
    text = readme.read_text()
    bounds = {claim.id: claim.bounds for claim in CLAIMS}
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows == [
        "| | measured | claim | First | Second |",
        "|-|-|-|-|-|",
        f"| C1a | short C1a | {bounds['C1a']} | 2.5 [2.05, 2.95] ✓ | 1.23 [1.1, 1.4] ✗ |",
        f"| C2a | short C2a | {bounds['C2a']} | 0.0449 [-0.0563, 0.146] ? |  |",
    ]
    assert "2 rows: 1 holds, 0 refuted, 1 undecided, 0 not testable here. No value" in text
    assert text.count("Second: 0 holds, 1 refuted, 1 undecided, 0 not testable here.") == 1
