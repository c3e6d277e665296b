"""Write pcrstore/format/schema: the JSON Schemas that are shipped.

python tests/support/make_schemas.py
"""

from pathlib import Path

import pcrstore.format.json_schema
from pcrstore.format.json_schema import schemas

FOLDER = Path(pcrstore.format.json_schema.__file__).parent / "schema"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in schemas().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
