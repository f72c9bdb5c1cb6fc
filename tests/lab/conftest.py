from collections.abc import Callable
from pathlib import Path

import pytest

CONFIG = """\
sales:
  source: data/sales.csv
  columns: {product_id: UPC, date: DAY, units: UNITS, price: "SPEND / nullif(UNITS, 0)"}
"""
EXPERIMENT = """\
design: {kind: crossover, start: 2017-06-05}
scope: {where: "category = 'MILK'"}
treatment: {price_multiplier: 0.95}
"""
SALES = """\
UPC,DAY,UNITS,SPEND,COST,BRAND
0012,2017-01-01,2,3.0,1.0,a
0012,2017-01-02,0,0.0,1.0,a
0013,2017-01-01,4,10.0,2.0,b
"""

MakeLab = Callable[..., Path]


@pytest.fixture
def make_lab(tmp_path: Path) -> MakeLab:
    """Writes a lab of the given files around one sales file and returns its folder."""

    def make(config: str = CONFIG, experiments: dict[str, str] | None = None, **files: str) -> Path:
        root = tmp_path / "my_lab"
        written = {"pricelab.yaml": config, "data/sales.csv": SALES}
        written |= {f"experiments/{name}": text for name, text in (experiments or {}).items()}
        for name, text in (written | {name.replace("__", "/"): text for name, text in files.items()}).items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return root

    return make
