import json
from pathlib import Path

from precept_trainer import further

SCHEMAS = Path(__file__).parents[2] / "schemas" / "trainerfields.json"


def test_what_a_spec_is_checked_by_is_what_the_installed_trainer_takes() -> None:
    assert json.loads(SCHEMAS.read_text()) == further.document(), "write it anew: python -m precept_trainer.further"
