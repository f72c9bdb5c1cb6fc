import pytest
from pydantic import ValidationError

from pricelab_dagster.lab.config import Schedule


@pytest.mark.parametrize("cron", ["0 5 * * *", "*/15 0-6 1,15 */2 1-5", "59 23 31 12 7", "0 0-23/4 * * 0"])
def test_crons_of_five_fields_are_allowed(cron: str) -> None:
    assert Schedule(cron=cron).cron == cron


@pytest.mark.parametrize(
    "cron",
    ["", "@daily", "0 5 * *", "0 5 * * * *", "60 5 * * *", "0 24 * * *", "0 5 0 * *", "*/0 5 * * *", "6-5 * * * *"],
)
def test_other_crons_are_refused(cron: str) -> None:
    with pytest.raises(ValidationError):
        Schedule(cron=cron)
